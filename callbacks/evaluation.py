"""Runs evaluation tasks during fit and in test, on one extraction pass per picture set.

Of several processes each extracts some of the batches; rank 0 scores them all, and its metrics are everyone's. In test
the features go to the disk, batch by batch, and what is there already, by whatever run, is not extracted again (see
``protoclip.evaluation.feature_store``).
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from callbacks.prompts import Prompts, prompts_digest
from datamodules.datamodule import ImageTextDataModule, nothing
from datamodules.sources import Pictures
from protoclip.distributed import gather, on_rank_zero, rank
from protoclip.evaluation import Extracted, Task
from protoclip.evaluation.feature_store import FeatureStore, PromptStore, StoredSet, model_identity, read_features
from protoclip.module import ImageTextPretraining

LEFT_OUT = ("pooled", "token_mask")
"""Outputs that are kept where a task asks for them, like tokens, which would fill the memory."""


@dataclass(frozen=True)
class TaskResult:
    """What a task gave, and on what.

    Attributes:
        metrics: by name.
        counts: of pictures, captions and classes.
        prompts: hash of the prompts, None without.
        sets: fingerprints of the picture sets by name.
    """

    metrics: dict[str, float]
    counts: dict[str, int] = field(default_factory=dict)
    prompts: str | None = None
    sets: dict[str, str] = field(default_factory=dict)


class Evaluation(Callback):
    """Evaluates frozen features.

    Args:
        validation: tasks by name that run during fit; their metrics are logged as ``validation/<task>/<metric>``.
        test: tasks by name that run in test.
        folder: of stored features, those of all runs; None keeps the test's in memory.

    Attributes:
        results: of the last test, by task; a task that the model has no features for is left out.
        failed: of the last test, what tasks said that could not score.
        extracted: features of the last pass, by picture set, on rank 0 alone.
        stored: where those of the last test are, by picture set, on rank 0 alone; nothing where they are in memory.
        scores: whether the test's tasks run; without, its features are extracted alone.
    """

    def __init__(
        self,
        validation: Mapping[str, Task] | None = None,
        test: Mapping[str, Task] | None = None,
        folder: str | None = None,
    ) -> None:
        self.tasks = {"validation": dict(validation or {}), "test": dict(test or {})}
        self.folder = folder
        self.results: dict[str, TaskResult] = {}
        self.failed: dict[str, str] = {}
        self.extracted: dict[str, Extracted] = {}
        self.stored: dict[str, StoredSet] = {}
        self.scores = True
        self._parts: dict[int, list[dict[str, Tensor]]] = defaultdict(list)
        self._stores: dict[str, FeatureStore] = {}
        self._model = ""
        self._contents: dict[str, str] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave out tasks on sets that are not on the disk, or of heads that the model lacks; refuse unknown sets.

        In test what is stored is not asked for again.

        Raises:
            ValueError: with the option to change.
        """
        assert isinstance(pl_module, ImageTextPretraining)
        outputs, datamodule = pl_module.picture_outputs, trainer.datamodule  # type: ignore[attr-defined]
        for part in self.tasks:
            there = set(getattr(datamodule, part))
            absent = set(datamodule.missing) - there
            self.tasks[part] = {name: task for name, task in self.tasks[part].items() if not absent & {*task.needs}}
            for name, task in self.tasks[part].items():
                if missing := set(task.needs) - there:
                    needed = f"evaluation.{part}.pictures.{', '.join(sorted(missing))}"
                    raise ValueError(f"task {name} needs {needed}: there is {', '.join(sorted(there)) or 'none'}")
            self.tasks[part] = {name: task for name, task in self.tasks[part].items() if task.applies(outputs)}
        self._stores, self.stored = {}, {}
        stores = stage == "test" and self.folder is not None and tests_all(trainer)
        datamodule.done = partial(self._begin, trainer) if stores else nothing

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave the datamodule as it was, and the stored features to other processes."""
        trainer.datamodule.done = nothing  # type: ignore[attr-defined]
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave the stored features to other processes."""
        self._close()

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

    def _close(self) -> None:
        for store in self._stores.values():
            store.close()

    def _begin(self, trainer: pl.Trainer, name: str) -> list[int]:
        """The batches of a test set that are stored: asked for when the weights are loaded, and no loader is made."""
        module, datamodule = trainer.lightning_module, trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(module, ImageTextPretraining)
        assert self.folder is not None
        if not self._stores:
            self._model = on_rank_zero(lambda: model_identity(module.towers, module.heads))
            self._contents = on_rank_zero(lambda: {name: found.content for name, found in datamodule.test.items()})
        same = [other for other, content in self._contents.items() if content == self._contents[name]]
        if begun := next((self._stores[other] for other in same if other in self._stores), None):
            self._stores[name] = begun
            return [*range(begun.batches)]
        identity = {**self._computed(module), **datamodule.evaluation_inputs, "set": self._contents[name]}
        outputs = frozenset(task.output for other in same for task in self._tasks_on("test", other))
        size, batch_size = len(datamodule.test[name]), datamodule.evaluation_batch_size
        store = self._stores[name] = FeatureStore(Path(self.folder), identity, outputs, size, batch_size)
        done, store.outputs = on_rank_zero(lambda: (store.begin(), store.outputs))
        return done

    def _computed(self, module: ImageTextPretraining) -> dict[str, Any]:
        """What features of pictures, captions and prompts depend on alike."""
        datamodule = module.trainer.datamodule  # type: ignore[attr-defined]
        return {
            "model": self._model,
            "precision": str(module.trainer.precision),
            "batch_size": datamodule.evaluation_batch_size,
            "ids": datamodule.evaluation_inputs["ids"],
        }

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
        store = self._stores.get(pictures) if stage == "test" else None
        asked = {task.output for task in self._tasks_on(stage, pictures)} if store is None else store.outputs
        part = {name: batch[name].cpu() for name in ("index", "label", "owner") if name in batch}
        for tower, values in outputs.items():
            kept = {name for name, value in values.items() if name not in LEFT_OUT and value.ndim < 3} | asked
            part |= {f"{tower}/{name}": value.cpu() for name, value in values.items() if name in kept}
        if store is None:
            self._parts[dataloader_idx].append(part)
        else:
            store.write({name: value.numpy() for name, value in part.items()}, rank())

    def _score(self, stage: str, module: pl.LightningModule) -> dict[str, TaskResult]:
        assert isinstance(module, ImageTextPretraining)
        datamodule = module.trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(datamodule, ImageTextDataModule)
        sets: Mapping[str, Pictures] = getattr(datamodule, stage)
        gathered = [gather(self._parts[place]) for place in range(len(sets))]
        self._parts.clear()
        module.trainer.strategy.barrier("features")  # all batches are stored
        prompts = Prompts(module, datamodule)

        def score() -> tuple[dict[str, TaskResult], dict[str, str]]:
            self.extracted = {
                name: self._finish(name, pictures, prompts)
                if stage == "test" and self._stores
                else _join(chain.from_iterable(shares), prompts(pictures, self._prompt_outputs(stage, name)))
                for (name, pictures), shares in zip(sets.items(), gathered, strict=True)
            }
            return self._results(stage, sets) if self.scores else ({}, {})

        results, self.failed = on_rank_zero(score)
        if stage == "validation":  # of the test the other rows are kept first
            for name, reason in self.failed.items():
                raise ValueError(f"task {name}: {reason}")
        for name, result in results.items():
            module.log_dict({f"{stage}/{name}/{metric}": value for metric, value in result.metrics.items()})
        return results

    def _results(self, stage: str, sets: Mapping[str, Pictures]) -> tuple[dict[str, TaskResult], dict[str, str]]:
        """What the tasks give, and what those say that cannot; one mistake must not lose the others' hours."""
        results, failed = {}, {}
        for name, task in self.tasks[stage].items():
            if {*task.needs} <= {*sets}:
                try:
                    metrics = task(self.extracted)
                except ValueError as error:
                    failed[name] = str(error)
                else:
                    prompts = self.extracted[task.pictures].prompts_hash
                    fingerprints = {each: sets[each].fingerprint for each in task.needs}
                    results[name] = TaskResult(metrics, _counts(task, self.extracted), prompts, fingerprints)
        return results, failed

    def _finish(self, name: str, pictures: Pictures, prompts: Prompts) -> Extracted:
        """The features of a test set whose batches are all stored."""
        assert self.folder is not None
        store = self._stores[name]
        store.finish()
        folder = None
        if digest := prompts_digest(pictures):
            told = {"prompts": digest, "classnames": [*pictures.classnames]}  # type: ignore[attr-defined]
            identity = {**self._computed(prompts.module), **told}
            prompted = PromptStore(Path(self.folder), identity, self._prompt_outputs("test", name))
            prompted.keep(partial(prompts, pictures))
            folder = prompted.folder
        self.stored[name] = StoredSet(store.folder, folder)
        return read_features(*self.stored[name])

    def _tasks_on(self, stage: str, pictures: str) -> list[Task]:
        return [task for task in self.tasks[stage].values() if pictures in task.needs]

    def _prompt_outputs(self, stage: str, pictures: str) -> frozenset[str]:
        return frozenset(key for task in self._tasks_on(stage, pictures) for key in task.prompt_outputs)


def tests_all(trainer: pl.Trainer) -> bool:
    """Whether whole sets are tested; a limit of 1 is one batch, and of 1.0 all."""
    return isinstance(trainer.limit_test_batches, float) and trainer.limit_test_batches == 1


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


def _counts(task: Task, sets: Mapping[str, Extracted]) -> dict[str, int]:
    counts = {f"{name}_pictures": len(sets[name].labels) for name in task.needs}
    found = sets[task.pictures]
    if found.text:
        counts["captions"] = len(found.owner)
    if found.class_features is not None:
        counts["classes"] = len(found.class_features)
    return counts
