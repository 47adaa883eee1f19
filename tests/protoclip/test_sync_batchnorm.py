"""Batch norms are synchronised and come back, timm's with the activations inside them."""

import timm
import torch
from torch import nn

from protoclip.sync_batchnorm import SyncBatchNorms


def test_a_model_computes_the_same_synchronised_and_after() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(timm.create_model("mobilenetv3_small_050", num_classes=8), nn.BatchNorm1d(8)).eval()
    classes = {name: type(module) for name, module in model.named_modules()}
    pictures = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = model(pictures)
        plugin = SyncBatchNorms()
        assert plugin.apply(model) is model
        norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        assert len(norms) == sum(issubclass(cls, nn.modules.batchnorm._BatchNorm) for cls in classes.values()) > 30
        assert all(isinstance(norm, nn.SyncBatchNorm) for norm in norms)
        assert torch.equal(model(pictures), expected)

        for norm in norms:  # as training would
            norm.weight.mul_(1.5)
            assert norm.running_mean is not None
            norm.running_mean = norm.running_mean + 0.1
        trained = model(pictures)
        state = {name: value.clone() for name, value in model.state_dict().items()}
        model.train()
        assert plugin.revert(model) is model
        assert all(module.training for module in model.modules())
        assert {name: type(module) for name, module in model.named_modules()} == classes
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
        assert torch.equal(model.eval()(pictures), trained)
        assert not torch.equal(trained, expected)
