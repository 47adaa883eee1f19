"""The LightningModule: two towers, heads, temperatures and a weighted sum of supervision terms.

One step: each view that a term is bound to goes through its tower once, the heads that are asked for run on top, every
term turns the shared features into a loss, and the losses are added with the weights of the current phase.
"""

import math
import random
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from pytorch_lightning.plugins.precision import MixedPrecision, Precision
from pytorch_lightning.utilities import GradClipAlgorithmType
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from protoclip.captions import encode_by_length
from protoclip.clock import PhaseClock
from protoclip.distributed import broadcast_buffers, mean_figures, mean_gradients, total
from protoclip.divergence import check_loss
from protoclip.evaluation import feature_std, modality_gap
from protoclip.micro_batch import FeatureCache
from protoclip.parts import TOWER_OUTPUTS, build_heads, check_biases, check_parts, named_parts, reads, used_terms
from protoclip.phases import Phase, term_weights
from protoclip.prototypes import PrototypeBank
from protoclip.ranges import NonNegativeFloat, PositiveInt
from protoclip.schedule import parameter_groups
from protoclip.seeds import derive_seed
from protoclip.temperature import Temperature
from protoclip.terms import FeatureKey, StepInputs, Term, teacher_view
from protoclip.towers import TextTower, Towers
from protoclip.unused import freeze_unused

Batch = Mapping[str, Tensor]
Features = dict[FeatureKey, Tensor]
PICTURES = 64
"""Pictures that a CPU encodes at once: what more of them need between layers is fetched from the system each time."""


class ImageTextPretraining(pl.LightningModule):
    """Image-text pretraining by a sum of terms.

    Args:
        towers: the image and the text tower.
        terms: supervision terms by name; one that has no weight in any phase is left out, with all that it alone needs.
        temperatures: learnable temperatures by name, shared between terms.
        heads: for each name, a function from the width of a tower's embedding to a head. Both modalities get the same
            initial weights where their widths are equal (as ProtoCLIP's code does).
        banks: prototypes by name.
        phases: episodes with other weights.
        optimizer: function from parameter groups to an optimizer; its ``weight_decay`` is ``weight_decay``.
        schedule: function from the number of steps to a factor of the learning rate by step; with ``stop=`` it is 0
            from that step on.
        weight_decay: of the parameters that are decayed (see ``parameter_groups``).
        micro_batch: rows of a process that are encoded with a graph at a time; the loss is that of the whole batch.
            None for all rows at once.
        seed: of everything random in a training step, together with the episode.

    Attributes:
        returned: features that ``training_step`` hands to callbacks, as ``features`` beside the loss.

    Raises:
        ValueError: terms, phases, heads, temperatures and banks that do not fit together.
    """

    def __init__(
        self,
        towers: Towers,
        terms: Mapping[str, Term],
        temperatures: Mapping[str, Temperature],
        *,
        optimizer: Callable[[list[dict[str, Any]]], Optimizer],
        schedule: Callable[..., Callable[[int], float]],
        heads: Mapping[str, Callable[[int], nn.Module]] | None = None,
        banks: Mapping[str, PrototypeBank] | None = None,
        phases: Mapping[str, Phase] | None = None,
        weight_decay: NonNegativeFloat = 0.5,
        micro_batch: PositiveInt | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.towers = towers
        towers.image.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a third faster for convolutions, on CPU and GPU alike
        self.phases = dict(phases or {})
        used = used_terms(terms, self.phases)
        check_parts(used, heads=heads or {}, temperatures=temperatures, banks=banks or {})
        for term in used.values():
            term.build(towers)
        self.terms = nn.ModuleDict(used)
        own_temperatures = named_parts(temperatures, (term.temperatures for term in used.values()))
        check_biases(used, own_temperatures)
        self.temperatures = nn.ModuleDict(own_temperatures)
        self.banks = nn.ModuleDict(named_parts(banks or {}, (term.banks for term in used.values())))
        self.optimizer_factory = optimizer
        self.schedule_factory = schedule
        self.weight_decay = weight_decay
        self.micro_batch = micro_batch
        self._cache: FeatureCache | None = None
        self.seed = seed
        self.image_locked_from: int | None = None  # episode
        self.clock = PhaseClock()
        self._validation_sums = torch.zeros(0, 2)
        self.required = tuple(dict.fromkeys(key for term in used.values() for key in term.required))
        self.returned: tuple[FeatureKey, ...] = ()
        self._keeping = [term for term in used.values() if type(term).update is not Term.update]
        self._seen: list[StepInputs] = []  # since the last optimizer step
        self._called = {name: tower for term in used.values() for name, tower in term.heads.items()}
        asked = {(key.output, key.tower) for key in self.required}.union(self._called.items())
        self.heads = build_heads(heads or {}, towers, asked)
        freeze_unused(towers, self._outputs_read())

    def _outputs_read(self) -> dict[str, set[str]]:
        """Outputs of each tower that a term or a head reads."""
        read = {"image": set[str](), "text": set[str]()}
        pairs = {(key.tower, key.output) for key in self.required}.union((t, name) for name, t in self._called.items())
        for tower, output in pairs:
            head = self.get_submodule(f"heads.{output}.{tower}") if output in self.heads else None
            read[tower].add(output if head is None else reads(head))
        return read

    @property
    def required_teachers(self) -> set[str]:
        """The external teachers whose features the terms read."""
        return {teacher for name in self.terms for teacher in self._term(name).teachers}

    @property
    def required_views(self) -> dict[str, str]:
        """The views that the terms read, and each one's tower."""
        return {key.view: key.tower for key in self.required}

    def active_weights(self, episode: int) -> dict[str, float]:
        """Weights of the terms in an episode."""
        weights = term_weights({name: self._term(name).weight for name in self.terms}, self.phases, episode)
        return {name: weights[name] for name in self.terms}

    def encode(self, tower: str, inputs: Tensor, heads: Collection[str] | None = None) -> dict[str, Tensor]:
        """Outputs of a tower and its heads.

        Args:
            tower: ``image`` or ``text``.
            inputs: images [batch, 3, height, width], regions [batch, boxes, roi_dim] or token ids [batch, length].
            heads: those to run; None for all but those that terms call themselves.
        """
        if inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        outputs: dict[str, Tensor] = self.towers.get_submodule(tower)(inputs)
        for name, pair in self.heads.items():
            assert isinstance(pair, nn.ModuleDict)
            if tower in pair and (name not in self._called if heads is None else name in heads):
                outputs[name] = pair[tower](outputs[reads(pair[tower])])
        return outputs

    @property
    def picture_outputs(self) -> set[str]:
        """Outputs that ``encode_pictures`` gives: those of the image tower, and of heads that no term calls itself."""
        heads = {name for name, pair in self.heads.items() if "image" in pair and name not in self._called}  # type: ignore[operator]
        return heads.union(TOWER_OUTPUTS)

    def encode_captions(self, ids: Tensor) -> dict[str, Tensor]:
        """Outputs of the text tower and its heads without a graph, for token ids [batch, length]."""
        text = self.towers.text
        assert isinstance(text, TextTower)
        return encode_by_length(partial(self.encode, "text"), ids, text.lengths(ids))

    def encode_pictures(self, images: Tensor) -> dict[str, Tensor]:
        """Outputs of the image tower and its heads without a graph, for images [batch, 3, height, width]."""
        parts = torch.split(images, PICTURES if images.device.type == "cpu" else len(images))
        columns = [self.encode("image", part) for part in parts]
        return {name: torch.cat([column[name] for column in columns]) for name in columns[0]}

    def forward(self, batch: Batch) -> Features:
        """The features that the terms require; ``batch`` holds the views by name."""
        features: Features = {}
        for view, tower in self.required_views.items():
            wanted = dict.fromkeys(key.output for key in self.required if key.view == view)
            outputs = self.encode(tower, batch[view], wanted)
            features |= {FeatureKey(tower, view, name): _full_precision(outputs[name]) for name in wanted}
        return features

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Weighted sum of the terms' losses on one batch of pairs."""
        episode = int(batch["episode"][0])
        if episode != self.current_epoch:
            raise RuntimeError(f"the loader delivered episode {episode} in episode {self.current_epoch}")
        features = self._parted(batch, self.micro_batch) if self.micro_batch else self(batch)
        inputs = self._inputs(features, batch)
        with torch.autocast(self.device.type, enabled=False):
            loss, figures = self._loss(inputs, self.active_weights(episode))
        if self._keeping:
            self._seen.append(inputs)
        check_loss(loss, figures, features, batch, self.global_step)
        if (self.global_step + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            figures = mean_figures(figures | self._representation_figures(features), self.device)
        self.log("train/loss", figures.pop("loss"), prog_bar=True)
        self.log_dict({f"train/{name}": value for name, value in figures.items()})
        return {"loss": loss, "features": {key: features[key].detach() for key in self.returned}}

    def _parted(self, batch: Batch, size: int) -> Features:
        """The features of a batch that is encoded in parts."""
        rows = len(batch["position"])
        if rows % size:
            raise ValueError(f"micro_batch={size} does not divide the {rows} pairs of a process: choose one that does")
        if size == rows:
            features: Features = self(batch)
            return features
        self._cache = FeatureCache(self, self, {view: batch[view] for view in self.required_views}, size)
        return self._cache.features

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Of the loss, and of cached features."""
        super().backward(loss, *args, **kwargs)
        if self._cache is not None:
            self._cache.backward(self.trainer.precision_plugin.forward_context)
            self._cache = None
            mean_gradients(self)

    def on_train_start(self) -> None:
        """Warn where gradients are accumulated of a loss that is not a sum over its rows."""
        contrastive = [name for name in self.terms if self._term(name).contrastive]
        if self.trainer.accumulate_grad_batches > 1 and contrastive:
            told = f"{contrastive[0]} contrasts the rows of one batch: accumulated gradients are not those of a larger"
            rank_zero_warn(f"{told} batch; set batch_size to that size, and micro_batch to what fits in memory")

    def _loss(self, inputs: StepInputs, weights: Mapping[str, float]) -> tuple[Tensor, dict[str, Tensor | float]]:
        losses = []
        figures: dict[str, Tensor | float] = {}
        for name, weight in weights.items():
            term = self._term(name)
            if weight:
                results = term(inputs)
                losses.append(weight * results["loss"])
                figures |= {f"{name}_{figure}": value.detach() for figure, value in results.items()}
            else:
                losses.append(_untrained(term, inputs))
        figures |= {f"logit_scale/{name}": scale.detach() for name, scale in inputs.logit_scales.items()}
        figures |= {f"logit_bias/{name}": bias.detach() for name, bias in inputs.logit_biases.items()}
        loss = torch.stack(losses).sum()
        return loss, figures | {"loss": loss.detach()}

    def _inputs(self, features: Features, batch: Batch) -> StepInputs:
        return StepInputs(
            features=features,
            logit_scales={name: temperature() for name, temperature in self.temperatures.items()},
            banks={name: bank for name, bank in self.banks.items() if isinstance(bank, PrototypeBank)},
            positions=batch["position"],
            block=int(batch["block"][0]),
            gathers=True,
            teachers={name: batch[teacher_view(name)] for name in self.required_teachers},
            targets={name: batch[name] for term in self.terms for name in self._term(term).targets},
            heads={name: self.get_submodule(f"heads.{name}.{tower}") for name, tower in self._called.items()},
            logit_biases=self._logit_biases,
        )

    @property
    def _logit_biases(self) -> dict[str, Tensor]:
        return {name: bias for name, value in self.temperatures.items() if isinstance(bias := value.bias, Tensor)}

    def _representation_figures(self, features: Features) -> dict[str, float]:
        """Modality gap and spread of the local batch (ProtoCLIP, Fig. 7)."""
        unit: dict[str, Tensor] = {}
        for key, value in features.items():
            if key.output == "features":
                unit.setdefault(key.tower, value.detach())  # of the first view
        figures = {f"{tower}_feature_std": feature_std(value) for tower, value in unit.items()}
        return figures | {"modality_gap": modality_gap(unit["image"], unit["text"])} if len(unit) == 2 else figures

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, dict[str, Tensor]]:
        """Encode a batch of evaluation pictures, with the validation loss where they have captions.

        Nothing is gathered, and the loss is logged at the end: processes may have different numbers of batches. Every
        view of the terms is the plain picture or its first caption.
        """
        outputs = self.test_step(batch, batch_idx, dataloader_idx)
        weights = {name: self._term(name).weight for name in self.terms if self._term(name).validates}
        if "text" in outputs and weights:
            first = batch["first_caption"]
            features: Features = {}
            for view, tower in self.required_views.items():
                rows = slice(None) if tower == "image" else first
                features |= {FeatureKey(tower, view, name): value[rows] for name, value in outputs[tower].items()}
            scales = {name: temperature() for name, temperature in self.temperatures.items()}
            biases = self._logit_biases
            inputs = StepInputs(features, scales, {}, positions=batch["index"], block=-1, logit_biases=biases)
            with torch.autocast(self.device.type, enabled=False):
                loss = torch.stack(
                    [weight * self._term(name)(inputs)["loss"] for name, weight in weights.items()]
                ).sum()
            sums = self._validation_sums[dataloader_idx]
            sums += sums.new_tensor([float(loss) * len(first), len(first)])
        return outputs

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, dict[str, Tensor]]:
        """Outputs of the towers and heads for a batch of evaluation pictures, in full precision."""
        encoders: dict[str, Callable[[Tensor], dict[str, Tensor]]]
        encoders = {"image": self.encode_pictures, "text": self.encode_captions}
        return {
            tower: {name: _full_precision(value) for name, value in encode(batch[tower]).items()}
            for tower, encode in encoders.items()
            if tower in batch
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say what the weights belong to."""
        checkpoint["terms"] = list(self.terms)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the checkpoint of another model.

        Raises:
            ValueError: with what differs.
        """
        saved, own = checkpoint["state_dict"], self.state_dict()
        differing = [name for name in {**saved, **own} if name not in saved or name not in own]
        differing += [name for name in own if name in saved and saved[name].shape != own[name].shape]
        if differing:
            trained, here = (", ".join(terms) for terms in (checkpoint.get("terms", ()), self.terms))
            raise ValueError(
                f"the checkpoint is of another model (terms {trained or 'unknown'}; here {here}; "
                f"{differing[0]} differs): give the options that it was trained with, such as method and towers, "
                f"or a checkpoint of this model"
            )

    def on_validation_start(self) -> None:
        """Start from rank 0's buffers, with a sum of losses and a count of pictures for each set."""
        broadcast_buffers(self)
        self._validation_sums = torch.zeros(len(self.trainer.num_val_batches), 2, dtype=torch.float64)

    def on_validation_epoch_end(self) -> None:
        """Log the validation loss of each set with captions, over all processes."""
        for place, (loss, count) in enumerate(total(self._validation_sums, self.device).tolist()):
            if count:
                self.log("validation/loss" + (f"_{place}" if place else ""), loss / count)

    def on_test_start(self) -> None:
        """Start from rank 0's buffers."""
        broadcast_buffers(self)

    def on_train_epoch_end(self) -> None:
        """Give every process the buffers that are in the checkpoint."""
        broadcast_buffers(self)  # DDP leaves running statistics to each process; a resumed run has rank 0's everywhere

    def on_train_epoch_start(self) -> None:
        """Make whatever is random in a step a function of (seed, episode), so that resume has nothing to restore."""
        wrapped = self.trainer.strategy.model  # a new one where a part has been locked
        if self.micro_batch is not None and isinstance(wrapped, DistributedDataParallel):
            wrapped.require_backward_grad_sync = False  # gradients arrive in parts; backward adds them up
        seed = derive_seed(self.seed, "episode", self.current_epoch, self.global_rank)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002 - libraries draw from the global state
        torch.manual_seed(seed)

    def configure_optimizers(self) -> Any:
        """The optimizer over the four parameter groups; the image tower's learning rate ends where it is locked."""
        optimizer = self.optimizer_factory(parameter_groups(self, self.weight_decay))
        steps = int(self.trainer.estimated_stepping_batches)
        factor = image_factor = self.schedule_factory(steps)
        if self.image_locked_from is not None:
            steps_of_episode = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
            image_factor = self.schedule_factory(steps, stop=self.image_locked_from * steps_of_episode)
        of_image = [str(group["name"]).startswith("image_tower/") for group in optimizer.param_groups]
        schedule = LambdaLR(optimizer, [image_factor if image else factor for image in of_image])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as Lightning does, under bf16 also for a fused optimizer, which it refuses as if a scaler were there."""
        precision = self.trainer.precision_plugin
        if isinstance(precision, MixedPrecision) and precision.scaler is None:
            algorithm = GradClipAlgorithmType(gradient_clip_algorithm or "norm")
            Precision.clip_gradients(precision, optimizer, gradient_clip_val or 0.0, algorithm)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then put the temperatures back into their range and let terms renew what they keep."""
        super().optimizer_step(*args, **kwargs)
        for temperature in self.temperatures.values():
            assert isinstance(temperature, Temperature)
            temperature.clamp()
        with torch.no_grad():
            for inputs in self._seen:
                for term in self._keeping:
                    term.update(inputs)
        self._seen.clear()

    def _term(self, name: str) -> Term:
        term = self.terms[name]
        assert isinstance(term, Term)
        return term


def _full_precision(value: Tensor) -> Tensor:
    return value.float() if value.dtype in {torch.float16, torch.bfloat16} else value


def _untrained(term: Term, inputs: StepInputs) -> Tensor:
    """Zero that depends on all that the term would train, so that every parameter has a gradient in every phase."""
    parts = [value.sum() for key in term.required if (value := inputs.features[key]).is_floating_point()]
    parts += [inputs.logit_scales[name] for name in term.temperatures]
    parts += [inputs.logit_biases[name] for name in term.temperatures if name in inputs.logit_biases]
    trained = [term, *(inputs.heads[name] for name in term.heads)]
    parts += [parameter.sum() for part in trained for parameter in part.parameters()]
    return 0.0 * torch.stack(parts).sum()
