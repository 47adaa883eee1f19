"""Runs evaluation tasks during fit and in test, on one extraction pass per picture set.

Of several processes each extracts some of the batches; rank 0 scores them all, and its metrics are everyone's.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from datamodules.datamodule import ImageTextDataModule
from datamodules.sources import Pictures
from protoclip.distributed import gather, on_rank_zero
from protoclip.evaluation import Extracted, Task, class_features
from protoclip.module import ImageTextPretraining

LEFT_OUT = ("pooled", "token_mask")
"""Outputs that no task looks at; tokens, which would fill the memory, are kept where a task asks for them."""


@dataclass(frozen=True)
class TaskResult:
    """What a task gave, and on what."""

    metrics: dict[str, float]
    counts: dict[str, int]
    prompts: str | None


class Evaluation(Callback):
    """Evaluates frozen features.

    Args:
        validation: tasks by name that run during fit; their metrics are logged as ``validation/<task>/<metric>``.
        test: tasks by name that run in test.

    Attributes:
        results: of the last test, by task; a task that the model has no features for is left out.
        extracted: features of the last pass, by picture set, on rank 0 alone.
    """

    def __init__(self, validation: Mapping[str, Task] | None = None, test: Mapping[str, Task] | None = None) -> None:
        self.tasks = {"validation": dict(validation or {}), "test": dict(test or {})}
        self.results: dict[str, TaskResult] = {}
        self.extracted: dict[str, Extracted] = {}
        self._parts: dict[int, list[dict[str, Tensor]]] = defaultdict(list)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave out tasks on sets that are not on the disk, and refuse those on sets that nobody names.

        Raises:
            ValueError: with the option to change.
        """
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        for part in self.tasks:
            there = set(getattr(datamodule, part))
            absent = set(datamodule.missing) - there
            self.tasks[part] = {name: task for name, task in self.tasks[part].items() if not absent & {*task.needs}}
            for name, task in self.tasks[part].items():
                if missing := set(task.needs) - there:
                    raise ValueError(f"task {name} needs evaluation.{part}.pictures.{', '.join(sorted(missing))}")

    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Keep a batch's features."""
        self._collect("validation", *args, **kwargs)

    def on_test_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Keep a batch's features."""
        self._collect("test", *args, **kwargs)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Score the validation sets."""
        self._score("validation", pl_module)

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Score the test sets."""
        self.results = self._score("test", pl_module)

    def _collect(
        self,
        stage: str,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Mapping[str, Tensor],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not batch:
            return
        pictures = list(getattr(trainer.datamodule, stage))[dataloader_idx]  # type: ignore[attr-defined]
        asked = {task.output for task in self._tasks_on(stage, pictures)}
        part = {name: batch[name].cpu() for name in ("index", "label", "owner") if name in batch}
        for tower, values in outputs.items():
            kept = {name: value for name, value in values.items() if name not in LEFT_OUT}
            part |= {f"{tower}/{name}": value.cpu() for name, value in kept.items() if value.ndim < 3 or name in asked}
        self._parts[dataloader_idx].append(part)

    def _score(self, stage: str, module: pl.LightningModule) -> dict[str, TaskResult]:
        assert isinstance(module, ImageTextPretraining)
        datamodule = module.trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(datamodule, ImageTextDataModule)
        sets: Mapping[str, Pictures] = getattr(datamodule, stage)
        gathered = [gather(self._parts[place]) for place in range(len(sets))]
        self._parts.clear()
        asked = {name: {key for task in self._tasks_on(stage, name) for key in task.prompt_outputs} for name in sets}

        def score() -> dict[str, TaskResult]:
            self.extracted = {
                name: _join(chain.from_iterable(shares), _prompts(module, datamodule, pictures, asked[name]))
                for (name, pictures), shares in zip(sets.items(), gathered, strict=True)
            }
            return {
                name: TaskResult(task(self.extracted), _counts(task, self.extracted), self._prompts_hash(task))
                for name, task in self.tasks[stage].items()
                if task.applies(self.extracted)
            }

        results = on_rank_zero(score)
        for name, result in results.items():
            module.log_dict({f"{stage}/{name}/{metric}": value for metric, value in result.metrics.items()})
        return results

    def _tasks_on(self, stage: str, pictures: str) -> list[Task]:
        return [task for task in self.tasks[stage].values() if pictures in task.needs]

    def _prompts_hash(self, task: Task) -> str | None:
        return self.extracted[task.pictures].prompts_hash


def _join(batches: Iterable[dict[str, Tensor]], prompts: Mapping[str, Any]) -> Extracted:
    parts = sorted(batches, key=lambda part: int(part["index"][0]))  # processes took whole batches by turns
    columns = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return Extracted(
        image={name.removeprefix("image/"): value for name, value in columns.items() if name.startswith("image/")},
        labels=columns["label"],
        text={name.removeprefix("text/"): value for name, value in columns.items() if name.startswith("text/")},
        owner=columns.get("owner", torch.empty(0, dtype=torch.int64)),
        **prompts,
    )


@torch.no_grad()
def _prompts(
    module: ImageTextPretraining, datamodule: ImageTextDataModule, pictures: Pictures, outputs: Collection[str]
) -> dict[str, Any]:
    """What ``Extracted`` says of a labelled set's prompts, with the outputs that tasks ask for."""
    names, templates = getattr(pictures, "classnames", None), getattr(pictures, "templates", None)
    if not names or not templates:
        return {}
    prompts = [template.format(name) for name in names for template in templates]
    columns: dict[str, list[Tensor]] = defaultdict(list)
    for ids in torch.split(datamodule.tokenize(prompts), datamodule.evaluation_batch_size):
        with module.trainer.precision_plugin.forward_context():
            encoded = module.encode("text", ids.to(module.device))
        for name in encoded.keys() & {"features", *outputs}:
            value = encoded[name]
            columns[name].append((value.float() if value.is_floating_point() else value).cpu())
    shape = (len(names), len(templates))
    found = {name: torch.cat(parts).reshape(*shape, *parts[0].shape[1:]) for name, parts in columns.items()}
    return {
        "class_features": class_features(found["features"]),
        "prompts": {name: value for name, value in found.items() if name in outputs},
        "prompts_hash": sha256("\n".join(prompts).encode()).hexdigest()[:16],
    }


def _counts(task: Task, sets: Mapping[str, Extracted]) -> dict[str, int]:
    counts = {f"{name}_pictures": len(sets[name].labels) for name in task.needs}
    found = sets[task.pictures]
    if found.text:
        counts["captions"] = len(found.owner)
    if found.class_features is not None:
        counts["classes"] = len(found.class_features)
    return counts
