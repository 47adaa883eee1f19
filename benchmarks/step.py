"""A training step under Lightning, with logging, callbacks and clipping, beside a bare loop around open_clip's model.

The peer is ``open_clip.create_model`` of the same config with ``open_clip.ClipLoss``, the same optimizer and schedule,
the same clipping and the same memory format (channels last for pictures). Batches lie in memory. The loop of the
Trainer asks for a batch when it is done with the last one: that is where the two take turns, so many steps at a time as
lie between two loggings.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import open_clip
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from benchmarks.measure import Measured, arguments, write
from benchmarks.runs import TOY, composed, fit
from datamodules.datamodule import ImageTextDataModule
from protoclip.cli.build import build_module
from protoclip.cli.translate import translate
from protoclip.instantiate import instantiate
from protoclip.towers import model_config

TARGET = 1.05
Batch = Mapping[str, Tensor]


@dataclass
class Turns:
    """Batches for the Trainer's loop, which lets the peer train in between.

    Attributes:
        peer: one step of the peer.
        group: steps of a turn.
        turns: of each; what the first and the last take is not counted.
        batches: the batches, used again and again.
        ours: seconds of a step of ours, by turn.
        theirs: seconds of a step of the peer, by turn.
    """

    peer: Callable[[Batch], object]
    group: int
    turns: int
    batches: list[Batch] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return self.group * self.turns

    def __iter__(self) -> Iterator[Batch]:
        supply = cycle(self.batches)
        for _ in range(self.turns):
            started = perf_counter()
            for batch in islice(supply, self.group):
                self.peer(batch)
            middle = perf_counter()
            yield from islice(supply, self.group)
            self.theirs.append((middle - started) / self.group)
            self.ours.append((perf_counter() - middle) / self.group)  # the loop asked again: its last step is done


class ReadyBatches(ImageTextDataModule):
    """The datamodule with its training batches in memory."""

    turns: Turns

    def train_dataloader(self) -> Any:
        """The turns, filled with the episode's batches."""
        self.turns.batches = list(super().train_dataloader())
        return self.turns


def bare_step(config: DictConfig, steps: int) -> Callable[[Batch], Tensor]:
    """A training step around open_clip's own model, with the settings of a config."""
    settings: Any = OmegaConf.to_container(config.towers, resolve=True)
    names = ("image_size", "context_length", "text_layers", "embed_dim", "vision_cfg", "text_cfg")
    model = open_clip.create_model(
        settings["name"], **model_config(settings["name"], **{name: settings[name] for name in names})
    ).train()
    model.visual.to(memory_format=torch.channels_last)
    loss_of = open_clip.ClipLoss()
    parameters = list(model.parameters())
    decay = config.optimizer.weight_decay
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    ours = build_module(config)
    optimizer = ours.optimizer_factory(groups)
    schedule = LambdaLR(optimizer, ours.schedule_factory(steps))

    def step(batch: Batch) -> Tensor:
        images = batch["image"].contiguous(memory_format=torch.channels_last)
        image_features, text_features, logit_scale = model(images, batch["text"])
        loss: Tensor = loss_of(image_features, text_features, logit_scale)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, config.trainer.gradient_clip_val)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(config.temperatures.clip.max_scale))
        return loss.detach()

    return step


def measure(words: Sequence[str], *, batch_size: int, turns: int) -> Measured:
    """Ours beside the peer on one pair of towers."""
    size = 4 * batch_size
    words = ("method=clip", *words, f"data.num_pairs={size}", f"episode.size={size}", f"batch_size={batch_size}")
    with TemporaryDirectory() as folder:
        config = composed(*words, "run.episodes=1", runs=folder)
        datamodule = instantiate(ReadyBatches, translate(config)["data"], "data")
        group = config.trainer.log_every_n_steps
        turn = Turns(bare_step(config, group * (turns + 2)), group, turns + 2)
        datamodule.turns = turn
        fit(config, datamodule)
    return Measured(
        name=f"step/{config.towers.name}",
        seconds=turn.ours[1:],
        peer="bare PyTorch loop, open_clip's model and loss",
        peer_seconds=turn.theirs[1:],
        target=TARGET,
        sizes={"batch_size": batch_size, "image_size": config.towers.image_size, "steps_of_a_turn": group},
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Measure both pairs of towers."""
    options = arguments(__doc__, argv)
    if options.quick:
        words = (*TOY, "trainer.log_every_n_steps=2")
        write(measure(words, batch_size=4, turns=2), options.results)
        return
    write(measure(("towers=small_resnet",), batch_size=64, turns=11), options.results)
    write(measure(("towers=vit_b_32", "trainer.log_every_n_steps=5"), batch_size=32, turns=3), options.results)


if __name__ == "__main__":
    main()
