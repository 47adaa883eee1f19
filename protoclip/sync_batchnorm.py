"""Batch norms that use the statistics of all processes in training, for a trainer with ``sync_batchnorm``."""

from pytorch_lightning.plugins import TorchSyncBatchNorm
from timm.layers.norm_act import convert_sync_batchnorm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


class SyncBatchNorms(TorchSyncBatchNorm):
    """Lightning's, but timm's batch norms keep the activations that are inside them, and all come back as they were."""

    def __init__(self) -> None:
        self._before: dict[nn.Module, nn.Module] = {}

    def apply(self, model: nn.Module) -> nn.Module:
        """Put a synchronised layer in the place of each batch norm, with its parameters and buffers."""
        before = {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
        model = convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        self._before = {model.get_submodule(name): module for name, module in before.items()}
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """Put the batch norms back, with what the synchronised ones have learnt."""
        for parent in [*model.modules()]:
            for name, synced in [*parent.named_children()]:
                if (module := self._before.get(synced)) is not None:
                    for key, value in (*synced.named_parameters(recurse=False), *synced.named_buffers(recurse=False)):
                        setattr(module, key, value)
                    setattr(parent, name, module.train(synced.training))
        self._before = {}
        return model
