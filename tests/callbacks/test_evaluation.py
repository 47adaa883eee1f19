import os
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from filelock import FileLock
from PIL import Image
from pytorch_lightning.callbacks import Callback
from torch import Tensor
from torch.nn import functional

from callbacks.evaluation import Evaluation
from datamodules.labelled_folders import ClassFolders
from datamodules.scenes import SceneObjects, ScenePairs
from datamodules.sources import Pictures
from protoclip.evaluation import (
    KNN,
    LinearProbe,
    PseudoLabels,
    Retrieval,
    Sets,
    Task,
    TokenZeroShot,
    ZeroShot,
    knn_accuracy,
    linear_probe,
    pseudo_label_quality,
    retrieval_metrics,
    token_zero_shot_metrics,
    zero_shot_metrics,
)
from protoclip.module import ImageTextPretraining
from protoclip.prototypes import kmeans
from tests.tiny import Built, build, tiny_config

SIZES = {"pairs": 10, "train": 120, "objects": 20}
TASKS: dict[str, Task] = {
    "retrieval": Retrieval("pairs"),
    "zero_shot": ZeroShot("objects"),
    "knn": KNN("objects", "train", k=3),
    "linear_probe": LinearProbe("objects", "train", C=1.0),
    "pseudo_labels": PseudoLabels("pairs", images_per_prototype=5),
}


def sources() -> dict[str, Pictures]:
    return {
        "pairs": ScenePairs("retrieval", SIZES["pairs"], image_size=32),
        "train": SceneObjects("train", SIZES["train"], image_size=32),
        "objects": SceneObjects("test", SIZES["objects"], image_size=32),
    }


def evaluation_of(built: Built) -> Evaluation:
    return next(callback for callback in built.callbacks if isinstance(callback, Evaluation))


class Counting(Callback):
    """How many pictures and captions go through each tower in validation and test, and what validation gave."""

    def __init__(self, evaluation: Evaluation) -> None:
        self.evaluation = evaluation
        self.encoded: Counter[str] = Counter()
        self.modes: set[bool] = set()
        self.steps = 0
        self.validations: list[tuple[int, Sets, dict[str, float]]] = []

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, ImageTextPretraining)
        for tower in ("image", "text"):
            pl_module.towers.get_submodule(tower).register_forward_pre_hook(partial(self._count, trainer, tower))

    def _count(self, trainer: pl.Trainer, tower: str, module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if trainer.validating or trainer.testing:
            self.modes.add(module.training)
            self.encoded[f"{'test' if trainer.testing else 'validation'}/{tower}"] += len(inputs[0])

    def on_train_batch_end(self, *_: object) -> None:
        self.steps += 1

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.validations.append((trainer.current_epoch, self.evaluation.extracted, metrics))


@dataclass(frozen=True)
class Run:
    built: Built
    evaluation: Evaluation
    counting: Counting


def run(runs: Path, method: str, *overrides: str) -> Run:
    built = build(tiny_config(runs, method, *overrides))
    datamodule, evaluation = built.datamodule, evaluation_of(built)
    datamodule.test = sources()
    datamodule.validation = {"pairs": ScenePairs("val", 7, image_size=32), "objects": sources()["objects"]}
    datamodule.evaluation_batch_size = 16
    evaluation.tasks["validation"] = {name: TASKS[name] for name in ("retrieval", "zero_shot")}
    evaluation.tasks["test"] = dict(TASKS)
    counting = Counting(evaluation)
    built.fit(counting)
    built.trainer.test(built.module, datamodule=datamodule, verbose=False)
    return Run(built, evaluation, counting)


@pytest.fixture(scope="module")
def protoclip(tmp_path_factory: pytest.TempPathFactory) -> Run:
    words = ("run.episodes=2", "prototype.warmup_episodes=0")
    return run(tmp_path_factory.mktemp("protoclip"), "protoclip", *words)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(tmp_path_factory.mktemp("clip"), "clip", "run.episodes=3", "evaluation.every=2")


def encode(run: Run, pictures: Pictures) -> dict[str, dict[str, Tensor]]:
    """Outputs for all pictures and all captions of a set, one at a time."""
    module, datamodule = run.built.module.eval(), run.built.datamodule
    with torch.no_grad():
        images = torch.stack([datamodule.evaluation_transform(pictures.image(i)) for i in range(len(pictures))])
        outputs = {"image": module.encode("image", images)}
        if isinstance(pictures, ScenePairs):
            captions = [caption for index in range(len(pictures)) for caption in pictures.captions(index)]
            outputs["text"] = module.encode("text", datamodule.tokenize(captions))
    return outputs


def labels(pictures: Pictures) -> Tensor:
    return torch.tensor([pictures.label(index) for index in range(len(pictures))])


def prompts(pictures: SceneObjects) -> list[str]:
    return [template.format(name) for name in pictures.classnames for template in pictures.templates]


def by_hand(run: Run) -> dict[str, dict[str, float]]:
    test = run.built.datamodule.test
    pairs, train, objects = (encode(run, test[name]) for name in ("pairs", "train", "objects"))
    owner = torch.arange(SIZES["pairs"]).repeat_interleave(5)
    truth = {name: labels(pictures) for name, pictures in test.items()}
    source = test["objects"]
    assert isinstance(source, SceneObjects)
    with torch.no_grad():
        encoded = run.built.module.encode("text", run.built.datamodule.tokenize(prompts(source)))["features"]
    classes = torch.stack(
        [functional.normalize(part.mean(0), dim=0) for part in torch.split(encoded, len(source.templates))]
    )
    first = {"image": slice(None), "text": slice(None, None, 5)}
    head = {tower: outputs["prototype"][first[tower]] for tower, outputs in pairs.items() if "prototype" in outputs}
    fitted, tested = train["image"], objects["image"]
    features = (fitted["features"], truth["train"], tested["features"], truth["objects"])
    embeddings = (fitted["embedding"], truth["train"], tested["embedding"], truth["objects"])
    return {
        "retrieval": retrieval_metrics(pairs["image"]["features"], pairs["text"]["features"], owner),
        "zero_shot": zero_shot_metrics(tested["features"], classes, truth["objects"]),
        "knn": {"top1": knn_accuracy(*features, k=3)},
        "linear_probe": linear_probe(*embeddings, C=1.0),
        "pseudo_labels": {
            f"{modality}_{name}": value
            for modality, features in head.items()
            for name, value in pseudo_label_quality(
                features, kmeans(features, 2).labels, true_labels=truth["pairs"]
            ).items()
        },
    }


def assert_metrics(found: Mapping[str, float], expected: Mapping[str, float]) -> None:
    assert expected.keys() <= found.keys()
    assert {name: found[name] for name in expected} == pytest.approx(dict(expected), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("method", ["protoclip", "clip"])
def test_results_equal_the_pure_functions_by_hand(method: str, request: pytest.FixtureRequest) -> None:
    run: Run = request.getfixturevalue(method)
    expected = by_hand(run)
    for name, result in run.evaluation.results.items():
        assert_metrics(result.metrics, expected[name])
        assert len(result.metrics) >= len(expected[name])


def test_a_task_without_features_is_left_out(protoclip: Run, clip: Run) -> None:
    assert set(protoclip.evaluation.results) == set(TASKS)
    assert set(clip.evaluation.results) == set(TASKS) - {"pseudo_labels"}


def test_every_set_is_encoded_once_whatever_the_tasks(protoclip: Run) -> None:
    encoded = protoclip.counting.encoded
    captions = 5 * SIZES["pairs"]
    prompted = len(prompts(SceneObjects("test", 1)))
    assert encoded["test/image"] == sum(SIZES.values())
    # the prompts of the two labelled sets, which are the same
    assert encoded["test/text"] in {captions + prompted, captions + 2 * prompted}
    assert encoded["validation/image"] == 2 * (7 + SIZES["objects"])
    assert encoded["validation/text"] == 2 * (35 + prompted)
    assert protoclip.counting.modes == {False}


def test_counts_and_prompts(protoclip: Run) -> None:
    results = protoclip.evaluation.results
    assert results["retrieval"].counts == {"pairs_pictures": 10, "captions": 50}
    counts = results["knn"].counts
    assert (counts["objects_pictures"], counts["train_pictures"]) == (20, 120)
    assert results["zero_shot"].counts["classes"] == SceneObjects("test", 1).num_classes
    expected = sha256("\n".join(prompts(SceneObjects("test", 1))).encode()).hexdigest()[:16]
    assert results["zero_shot"].prompts == expected
    assert results["retrieval"].prompts is None
    fingerprints = {name: pictures.fingerprint for name, pictures in sources().items()}
    assert results["knn"].sets == {name: fingerprints[name] for name in ("objects", "train")}
    assert results["retrieval"].sets == {"pairs": fingerprints["pairs"]}


def score(
    built: Built,
    pictures: Mapping[str, Pictures],
    tasks: Mapping[str, Task],
    folder: Path | None = None,
    *callbacks: Callback,
    **options: Any,
) -> Evaluation:
    """Another test of a run's model."""
    evaluation, datamodule = Evaluation(test=tasks, folder=None if folder is None else str(folder)), built.datamodule
    before, datamodule.test = datamodule.test, dict(pictures)
    silent: dict[str, Any] = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
    trainer = pl.Trainer(**silent, accelerator="cpu", callbacks=[evaluation, *callbacks], **options)
    try:
        trainer.test(built.module, datamodule=datamodule, verbose=False)
    finally:
        datamodule.test = before
    return evaluation


def test_other_prompts_have_another_hash_and_other_features(protoclip: Run) -> None:
    pictures = SceneObjects("test", SIZES["objects"], image_size=32)
    pictures.templates = ("{} in the dark",)  # type: ignore[assignment]
    evaluation = score(protoclip.built, {"objects": pictures}, {"zero_shot": ZeroShot("objects")})
    expected = sha256("\n".join(f"{name} in the dark" for name in pictures.classnames).encode()).hexdigest()[:16]
    assert evaluation.results["zero_shot"].prompts == expected
    after, before = (found.extracted["objects"].class_features for found in (evaluation, protoclip.evaluation))
    assert isinstance(after, Tensor)
    assert isinstance(before, Tensor)
    assert not torch.allclose(after, before)


class TokenHead(torch.nn.Linear):
    """Tokens of width 8."""

    reads = "tokens"


def test_tokens_are_kept_where_a_task_asks_for_them(clip: Run) -> None:
    module, datamodule = clip.built.module, clip.built.datamodule
    pictures = {name: sources()[name] for name in ("objects", "pairs")}
    tasks = {"tokens": TokenZeroShot("objects", "words"), "retrieval": Retrieval("pairs")}
    assert set(score(clip.built, pictures, tasks).results) == {"retrieval"}
    widths = {tower: int(module.towers.get_submodule(tower).token_dim) for tower in ("image", "text")}  # type: ignore[arg-type]
    module.heads["words"] = torch.nn.ModuleDict({tower: TokenHead(width, 8) for tower, width in widths.items()})
    evaluation = score(clip.built, pictures, tasks)
    objects = evaluation.extracted["objects"]
    assert set(objects.image) == {"embedding", "features", "words"}
    assert (
        set(evaluation.extracted["pairs"].image) == set(evaluation.extracted["pairs"].text) == {"embedding", "features"}
    )
    assert (set(objects.prompts), evaluation.extracted["pairs"].prompts) == ({"words", "token_mask"}, {})

    source = pictures["objects"]
    assert isinstance(source, SceneObjects)
    images = encode(clip, source)["image"]["words"]
    with torch.no_grad():
        encoded = module.encode("text", datamodule.tokenize(prompts(source)))
    del module.heads["words"]
    shape = (len(source.classnames), len(source.templates))
    words, mask = (encoded[name].reshape(*shape, *encoded[name].shape[1:]) for name in ("words", "token_mask"))
    expected = token_zero_shot_metrics(images, words, mask, labels(source))
    assert_metrics(evaluation.results["tokens"].metrics, expected)
    assert evaluation.results["tokens"].counts == {"objects_pictures": SIZES["objects"], "classes": source.num_classes}


def test_features_line_up_with_the_pictures(protoclip: Run) -> None:
    extracted = protoclip.evaluation.extracted
    assert {name: len(found.labels) for name, found in extracted.items()} == SIZES
    assert extracted["pairs"].owner.tolist() == [index for index in range(10) for _ in range(5)]
    assert set(extracted["pairs"].image) == {"embedding", "features", "prototype"}
    assert extracted["objects"].text == {}
    for name, pictures in sources().items():
        assert torch.equal(extracted[name].labels, labels(pictures))


def test_validation_metrics_are_logged_by_task(protoclip: Run, clip: Run) -> None:
    for run, episodes in ((protoclip, [0, 1]), (clip, [1])):
        assert [episode for episode, *_ in run.counting.validations] == episodes
        for _, extracted, logged in run.counting.validations:
            assert {name: len(found.labels) for name, found in extracted.items()} == {"pairs": 7, "objects": 20}
            for name in ("retrieval", "zero_shot"):
                expected = {f"validation/{name}/{key}": value for key, value in TASKS[name](extracted).items()}
                assert_metrics(logged, expected)
            assert "validation/loss" in logged
    first, second = (logged["validation/retrieval/modality_gap"] for *_, logged in protoclip.counting.validations)
    assert first != second


@pytest.mark.parametrize("stage", ["validation", "test"])
def test_a_task_on_a_set_that_is_not_there_is_refused_before_the_first_step(tmp_path: Path, stage: str) -> None:
    built = build(tiny_config(tmp_path, "clip"))
    counting = Counting(evaluation_of(built))
    evaluation_of(built).tasks[stage] = {"mine": KNN("objects", "absent")}
    built.datamodule.validation = built.datamodule.test = {"objects": sources()["objects"]}
    with pytest.raises(ValueError, match=f"{stage}.pictures.absent: there is objects") as caught:
        built.fit(counting)
    assert "\n" not in str(caught.value)
    assert counting.steps == 0


# What is stored ------------------------------------------------------------------------------------------------------
ZERO_SHOT: dict[str, Task] = {"zero_shot": ZeroShot("objects"), "retrieval": Retrieval("pairs")}


class Encodings(Callback):
    """How many pictures and texts a test encodes; ``stop`` ends it before the so many-th batch."""

    def __init__(self, stop: int | None = None) -> None:
        self.encoded: Counter[str] = Counter()
        self.stop = stop
        self.hooks: list[Any] = []

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, ImageTextPretraining)
        towers = pl_module.towers
        self.hooks = [
            towers.get_submodule(name).register_forward_pre_hook(partial(self._count, name)) for name in TOWERS
        ]

    def on_test_batch_start(self, *_: object, **__: object) -> None:
        if self.stop == 0:
            raise KeyboardInterrupt
        self.stop = self.stop and self.stop - 1

    def _count(self, name: str, module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.encoded[name] += len(inputs[0])

    def remove(self) -> dict[str, int]:
        for hook in self.hooks:
            hook.remove()
        return dict(self.encoded)


TOWERS = ("image", "text")
PROMPTED = len(prompts(SceneObjects("test", 1)))
ALL = {"image": sum(SIZES.values()), "text": 5 * SIZES["pairs"] + PROMPTED}


def counted(built: Built, folder: Path, **changed: Pictures) -> tuple[Evaluation, dict[str, int]]:
    encodings = Encodings()
    evaluation = score(built, sources() | changed, ZERO_SHOT, folder, encodings)
    return evaluation, encodings.remove()


def stored(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def whole(clip: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The features of an uninterrupted test."""
    folder = tmp_path_factory.mktemp("whole")
    assert counted(clip.built, folder)[1] == ALL
    return folder


def test_stored_features_give_the_figures_of_those_in_memory_bit_for_bit(clip: Run, whole: Path) -> None:
    found, encoded = counted(clip.built, whole)
    expected = score(clip.built, sources(), ZERO_SHOT)
    assert encoded == {}
    assert found.results == expected.results
    for name, extracted in expected.extracted.items():
        for tower in ("image", "text"):
            stored, in_memory = getattr(found.extracted[name], tower), getattr(extracted, tower)
            assert {*stored} == {*in_memory}
            assert all(torch.equal(stored[output], in_memory[output]) for output in in_memory)


def test_a_task_of_a_head_that_the_model_lacks_costs_nothing(clip: Run, whole: Path, tmp_path: Path) -> None:
    encodings = Encodings()
    tasks = {**ZERO_SHOT, "tokens": TokenZeroShot("objects", "words")}
    found = score(clip.built, sources(), tasks, tmp_path, encodings)
    assert encodings.remove() == ALL
    assert {*found.results} == {*ZERO_SHOT}
    assert stored(tmp_path) == stored(whole)
    encodings = Encodings()
    score(clip.built, sources(), tasks, whole, encodings)
    assert encodings.remove() == {}


@pytest.mark.parametrize("batches", [0, 1, 5, 10])
def test_an_interrupted_test_goes_on_to_the_same_bytes(clip: Run, whole: Path, tmp_path: Path, batches: int) -> None:
    encodings = Encodings(stop=batches)
    with pytest.raises(SystemExit):
        score(clip.built, sources(), ZERO_SHOT, tmp_path, encodings)
    before = encodings.remove()
    _, after = counted(clip.built, tmp_path)
    assert bool(before) == bool(batches)
    assert Counter(before) + Counter(after) == ALL
    assert stored(tmp_path) == stored(whole)


def test_another_model_another_set_and_other_inputs_are_extracted_beside(clip: Run, whole: Path) -> None:
    built = clip.built
    larger = SceneObjects("test", SIZES["objects"] + 1, image_size=32)
    assert counted(built, whole, objects=larger)[1] == {"image": 21}
    weight = next(built.module.towers.image.parameters())
    with torch.no_grad():
        before = weight.clone()
        weight.add_(1)
        assert counted(built, whole)[1] == ALL
        weight.copy_(before)
    built.datamodule.evaluation_batch_size = 8
    assert counted(built, whole)[1] == ALL
    built.datamodule.evaluation_batch_size = 16
    assert counted(built, whole)[1] == counted(built, whole, objects=larger)[1] == {}


def test_one_more_task_and_one_more_set_encode_nothing_that_is_there(clip: Run, tmp_path: Path) -> None:
    first, second = Encodings(), Encodings()
    score(clip.built, {"objects": sources()["objects"]}, {"zero_shot": ZeroShot("objects")}, tmp_path, first)
    assert first.remove() == {"image": SIZES["objects"], "text": PROMPTED}
    pictures = {name: sources()[name] for name in ("train", "objects")}
    tasks = {"zero_shot": ZeroShot("objects"), "knn": KNN("objects", "train", k=3)}
    found = score(clip.built, pictures, tasks, tmp_path, second)
    assert second.remove() == {"image": SIZES["train"]}
    assert found.results == score(clip.built, pictures, tasks).results


def test_other_templates_are_encoded_without_the_pictures(clip: Run, whole: Path) -> None:
    dark = SceneObjects("test", SIZES["objects"], image_size=32)
    dark.templates = ("{} in the dark",)  # type: ignore[assignment]
    found, encoded = counted(clip.built, whole, objects=dark)
    assert encoded == {"text": len(dark.classnames)}
    expected = score(clip.built, sources() | {"objects": dark}, ZERO_SHOT)
    assert found.results == expected.results
    assert counted(clip.built, whole)[1] == counted(clip.built, whole, objects=dark)[1] == {}


def test_the_same_pictures_under_two_names_are_encoded_once(clip: Run, tmp_path: Path) -> None:
    dark = SceneObjects("test", SIZES["objects"], image_size=32)
    dark.templates = ("{} in the dark",)  # type: ignore[assignment]
    encodings = Encodings()
    pictures = {"objects": sources()["objects"], "dark": dark}
    tasks = {"one": ZeroShot("objects"), "other": KNN("dark", "objects", k=3)}
    both = score(clip.built, pictures, tasks, tmp_path, encodings).extracted
    assert encodings.remove() == {"image": SIZES["objects"], "text": PROMPTED + len(dark.classnames)}
    assert torch.equal(both["dark"].image["features"], both["objects"].image["features"])
    assert not torch.allclose(both["dark"].class_features, both["objects"].class_features)  # type: ignore[arg-type]


def test_other_pictures_of_the_same_sizes_are_encoded(clip: Run, tmp_path: Path) -> None:
    def scored() -> Tensor:
        found = score(clip.built, {"mine": ClassFolders(folder)}, {"near": KNN("mine", "mine", k=2)}, tmp_path / "kept")
        return found.extracted["mine"].image["embedding"].clone()

    folder = tmp_path / "mine"
    for name in ("red", "green"):
        (folder / name).mkdir(parents=True)
        Image.new("RGB", (32, 32), name).save(folder / name / "0.bmp")
    source, before = ClassFolders(folder), scored()
    for name, time in (("red", 1), ("green", 2)):
        Image.new("RGB", (32, 32), "blue").save(folder / name / "0.bmp")
        os.utime(folder / name / "0.bmp", (time, time))
    assert ClassFolders(folder).fingerprint == source.fingerprint
    after = scored()
    assert torch.equal(after[0], after[1])
    assert not torch.allclose(before, after)


def test_part_of_a_set_is_not_stored(clip: Run, tmp_path: Path) -> None:
    found = score(clip.built, sources(), {"retrieval": Retrieval("pairs")}, tmp_path, limit_test_batches=1)
    assert {name: len(extracted.labels) for name, extracted in found.extracted.items()} == {
        "pairs": 10, "train": 16, "objects": 16,
    }  # fmt: skip
    assert not [*tmp_path.iterdir()]
    assert not found.stored


def test_a_damaged_store_is_told_before_anything_is_encoded(clip: Run, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    objects = counted(clip.built, folder)[0].stored["objects"].pictures
    (objects / "labels.npy").write_bytes(b"")
    encodings = Encodings()
    with pytest.raises(ValueError, match=f"{objects} is damaged"):
        score(clip.built, sources(), ZERO_SHOT, folder, encodings)
    assert encodings.remove() == {}


def test_a_failure_leaves_the_features_to_other_processes(clip: Run, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        score(clip.built, sources(), ZERO_SHOT, tmp_path, stopping := Encodings(stop=3))
    stopping.remove()
    locks = [*tmp_path.glob("*/.lock")]
    assert locks
    for lock in locks:
        FileLock(lock, blocking=False).acquire().lock.release()


def test_tasks_on_a_missing_set_are_left_out(clip: Run) -> None:
    datamodule: Any = clip.built.datamodule
    datamodule.missing = {"absent": "nowhere"}
    tasks = {"mine": KNN("objects", "absent"), "zero_shot": ZeroShot("objects")}
    assert set(score(clip.built, {"objects": sources()["objects"]}, tasks).results) == {"zero_shot"}
    del datamodule.missing
