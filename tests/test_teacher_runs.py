"""Training with external teachers, from ``protoclip teacher`` to the rows; the banks against a slow recomputation."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from datamodules.episodes import SampleKey
from protoclip.cli import main, train
from protoclip.cli.build import build_datamodule, find_run
from protoclip.cli.compose import compose_config
from protoclip.module import ImageTextPretraining
from protoclip.prototypes import Clusters, kmeans
from protoclip.reports.rows import read_rows
from protoclip.seeds import derive_seed
from tests.conftest import TINY, TINY_PROTOTYPES
from tests.teachers import fill_caches
from tests.tiny import Batches, Built, build, tiny_config
from tests.tiny_bert import captions, save_tiny_bert

PAIRS, K = 48, 3
MANIFEST = ("data=manifest", *(word for word in TINY if not word.startswith("data.")), *TINY_PROTOTYPES)
BOTH = ("teacher=[minilm,dino]", "teachers.minilm.dims=6", "teachers.dino.dims=5")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs of one, two and three captions."""
    folder, texts, lines = tmp_path_factory.mktemp("pairs"), iter(captions(3 * PAIRS)), ["filepath\ttitle"]
    for pair in range(PAIRS):
        pixels = np.random.default_rng(pair).integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((32, 32)).save(folder / f"{pair}.png")
        lines += [f"{pair}.png\t{next(texts)}" for _ in range(1 + pair % 3)]
    (folder / "pairs.tsv").write_text("\n".join(lines), encoding="utf-8")
    return folder / "pairs.tsv"


@pytest.fixture(scope="module")
def words(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A text and an image teacher of that corpus whose caches are finished."""
    import timm

    folder = tmp_path_factory.mktemp("teachers")
    torch.manual_seed(0)
    torch.save(timm.create_model("test_vit", num_classes=3).state_dict(), folder / "vit.pt")
    models = [
        f"teachers.minilm.encoder.model={save_tiny_bert(folder / 'bert')}",
        "teachers.dino.encoder.name=test_vit",
        f"teachers.dino.encoder.pretrained={folder / 'vit.pt'}",
    ]
    words = [*MANIFEST, *BOTH, *models, f"data.path={corpus}", f"teacher.cache={folder}", "teacher.device=cpu"]
    assert main(["teacher", *words]) == 0
    return words


def text_alone(words: list[str]) -> list[str]:
    return ["teacher=minilm" if word == BOTH[0] else word for word in words if ".dino." not in word]


# From the command to the rows ----------------------------------------------------------------------------------------
def test_two_teachers_train_and_leave_their_figures(words: list[str], tmp_path: Path) -> None:
    assert train([*words, f"runs={tmp_path}", "run.episodes=2"]) == 0
    (run,) = (tmp_path / "protoclip-manifest").iterdir()
    (row,) = (row for row in read_rows(run / "rows.jsonl") if row["task"] == "prototypes")
    figures = row["metrics"]
    for clustering in ("prototype_image", "prototype_text", "minilm_minilm", "dino_dino"):
        assert figures[f"{clustering}_empty"] == 0
        assert 32 / K <= (figures[f"{clustering}_largest"] or 0) < 32
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["terms"] == ["image_text", "prototype", "minilm", "dino"]
    again = tmp_path / "again"
    assert main(["fit", "--config", str(run / "lightning.yaml"), "--run_dir", str(again)]) == 0
    repeated = torch.load(again / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(value, saved["state_dict"][name]) for name, value in repeated.items())


def complaint(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert train([*words, f"runs={tmp_path / 'runs'}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()
    return error.rstrip()


COMMAND = "run protoclip teacher with the same words"


@pytest.mark.parametrize(
    ("word", "told", "mend"),
    [
        ("teacher.cache=nowhere", "the cache nowhere/manifest/minilm of the teacher minilm is missing", COMMAND),
        ("teachers.minilm.dims=5", "made with dims=6 instead of 5", COMMAND),
        ("teachers.minilm.encoder.pooling=cls", "made with encoder.pooling=mean instead of cls", COMMAND),
        ("method=clip", "takes the value of prototype.empty, which there is not", "or leave teacher out by teacher=[]"),
        ("banks.minilm.teacher_dim=7", "the teacher minilm gives 6 features", "set banks.minilm.teacher_dim=6"),
        (
            "~teachers.minilm",
            "takes the value of teachers.minilm.dims, which there is not",
            "give it a value of its own",
        ),
    ],
)
def test_mistakes_are_told_before_anything_is_written(
    word: str, told: str, mend: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prefix = () if word != "method=clip" else ("prototype", "heads.prototype")
    kept = [other for other in text_alone(words) if other.split("=")[0] != word.split("=", maxsplit=1)[0]]
    line = complaint([*(other for other in kept if not prefix or not other.startswith(prefix)), word], tmp_path, capsys)
    assert told in line
    assert line.endswith(mend)


def test_the_cache_of_another_corpus_is_refused(
    words: list[str], corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(corpus.parent, other)
    (other / "pairs.tsv").write_text(corpus.read_text().replace("dog", "cat"), encoding="utf-8")
    moved = [f"data.path={other / 'pairs.tsv'}" if word.startswith("data.path") else word for word in words]
    line = complaint(text_alone(moved), tmp_path, capsys)
    assert "is of another corpus" in line
    assert line.endswith(COMMAND)


def test_a_method_without_its_teacher_is_refused(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = [word for word in text_alone(words) if not word.startswith(("teachers.", "teacher="))]
    line = complaint([*alone, "method=teacher"], tmp_path, capsys)
    assert line.endswith("no term learns from prototypes or a teacher: add teacher=NAME, or choose method=clip")
    line = complaint([*alone, "method=distillation"], tmp_path, capsys)
    assert line.endswith("the method reads the teacher minilm: add teacher=minilm")
    line = complaint([*text_alone(words), "method=distillation", "distillation.teacher=dino"], tmp_path, capsys)
    assert line.endswith("the method reads the teacher dino: set distillation.teacher=minilm, or add teacher=dino")
    feature = ("method=distillation", "distillation=feature", "distillation.dims=9")
    line = complaint([*text_alone(words), *feature], tmp_path, capsys)
    assert line.endswith("distillation.dims=9: the teacher minilm gives 6 features: set distillation.dims=6")


# Banks ---------------------------------------------------------------------------------------------------------------
@dataclass
class BankStates(Callback):
    """The banks of every episode's steps."""

    banks: list[dict[str, Tensor]] = field(default_factory=list)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, ImageTextPretraining)
        self.banks.append({name: value.clone() for name, value in pl_module.banks.state_dict().items()})


def cached(built: Built, teacher: str) -> tuple[Tensor, Tensor]:
    """Features and first rows, without the reader."""
    folder = Path(built.datamodule.teachers[teacher].folder)
    features, first = (torch.from_numpy(np.load(folder / name)) for name in ("features.npy", "first.npy"))
    return features, first


def rows_of(built: Built, teacher: str, block: int, episode: int) -> tuple[Tensor, Tensor]:
    """Which row of the cache each position of an episode has, and the number of its drawn caption."""
    drawn = built.datamodule.plan.indices(block).tolist()
    keys = [SampleKey(index, place, episode, block, "train") for place, index in enumerate(drawn)]
    data = built.datamodule
    counts = [len(data.train.captions(index)) for index in drawn]
    pairs = zip(keys, counts, strict=True)
    numbers = torch.tensor([data.dataset.caption_number(key, captions) for key, captions in pairs])
    first = cached(built, teacher)[1][drawn]
    return (first + numbers if teacher == "minilm" else first), numbers


def clustered(features: Tensor, block: int) -> Clusters:
    seed = derive_seed(0, "prototypes", block) % 2**31
    return kmeans(features, K, seed=seed, iterations=4, redo=3)


def trained(
    runs: Path, words: list[str], *more: str, also: Callback | None = None
) -> tuple[Built, BankStates, Batches]:
    states, batches = BankStates(), Batches()
    built = build(compose_config([*words, f"runs={runs}", *more]))
    return built.fit(states, batches, *([also] if also else [])), states, batches


def test_labels_are_clusters_of_the_drawn_captions_rows(words: list[str], tmp_path: Path) -> None:
    built, states, batches = trained(tmp_path, words, "prototype.warmup_episodes=0", "run.episodes=2")
    for teacher in ("minilm", "dino"):
        features, _ = cached(built, teacher)
        for episode, bank in enumerate(states.banks):
            rows, numbers = rows_of(built, teacher, episode, episode)
            assert len({*numbers.tolist()}) == 3
            found = clustered(features[rows], episode)
            for modality in ("image", "text"):
                assert torch.equal(bank[f"{teacher}.{modality}.labels"], found.labels)
                torch.testing.assert_close(bank[f"{teacher}.{modality}.centroids"], found.centroids)
            for batch in batches.batches[4 * episode : 4 * episode + 4]:
                assert torch.equal(batch[f"teacher_{teacher}"], features[rows[batch["position"]]])
    assert states.banks[1]["minilm.image.prototypes"].shape == (K, 8)
    assert not torch.equal(states.banks[1]["minilm.image.labels"], states.banks[1]["dino.image.labels"])


@pytest.mark.filterwarnings("error:The given NumPy array is not writable")
def test_scope_corpus_clusters_every_row_once(words: list[str], tmp_path: Path) -> None:
    more = ("teacher.scope=corpus", "prototype.warmup_episodes=0", "run.episodes=3")
    built, states, _ = trained(tmp_path, text_alone(words), *more)
    features, _ = cached(built, "minilm")
    everything = clustered(features, 0)
    assert len(features) > PAIRS
    for episode, bank in enumerate(states.banks):
        rows, _ = rows_of(built, "minilm", episode, episode)
        labels = everything.labels[rows]
        assert torch.equal(bank["minilm.text.labels"], labels)
        means = [features[rows][labels == cluster].mean(0) for cluster in range(K)]
        torch.testing.assert_close(bank["minilm.text.centroids"], torch.stack(means))


def test_features_of_the_models_width_and_soft_targets(words: list[str], tmp_path: Path) -> None:
    wide = [word for word in text_alone(words) if word != "teachers.minilm.dims=6" and ".cache=" not in word]
    wide += ["teachers.minilm.dims=null", f"teacher.cache={tmp_path / 'caches'}"]
    assert main(["teacher", *wide]) == 0
    more = ("banks.minilm.teacher_dim=24", "teacher.target_temperature=0.1", "prototype.weight=0", "run.episodes=2")
    _, states, _ = trained(tmp_path, wide, *more)
    assert states.banks[1]["minilm.image.centroids"].shape == (K, 24)


# Terms ---------------------------------------------------------------------------------------------------------------
def test_without_weight_there_is_no_term(tmp_path: Path) -> None:
    more = ("teacher=minilm", "teachers.minilm.dims=6", f"teacher.cache={tmp_path}", "teacher.weight=0")
    module = build(fill_caches(tiny_config(tmp_path, "protoclip", *more))).module
    assert {*module.terms} == {"image_text", "prototype"}
    assert {*module.banks} == {"prototype"}
    assert not module.required_teachers


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("teacher", ("prototype.warmup_episodes=0",)),
        ("distillation", ()),
        ("distillation", ("distillation=feature",)),
    ],
    ids=["teacher", "affinity", "feature"],
)
def test_a_teachers_term_goes_down_in_20_steps(
    method: str, more: tuple[str, ...], words: list[str], tmp_path: Path
) -> None:
    class Losses(Callback):
        def __init__(self) -> None:
            self.values: list[float] = []

        def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, *_: Any) -> None:
            self.values.append(float(outputs["loss"]))

    alone = ("terms.image_text.weight=0.0", "episode.refresh_every=5", "run.episodes=5", *more)
    losses = Losses()
    built, *_ = trained(tmp_path, text_alone(words), f"method={method}", *alone, also=losses)
    assert {*built.module.terms} == {"minilm" if method == "teacher" else "distillation"}
    assert len(losses.values) == 20
    assert sum(losses.values[-4:]) < 0.95 * sum(losses.values[:4])


# The hash ------------------------------------------------------------------------------------------------------------
def test_what_of_a_teacher_decides_the_run(tmp_path: Path) -> None:
    def digest(*more: str, cache: str = "cache") -> str:
        teacher = ("teacher=minilm", "teachers.minilm.dims=6", f"teacher.cache={tmp_path / cache}")
        config = fill_caches(tiny_config(tmp_path, "protoclip", *teacher, *more))
        return find_run(config, build_datamodule(config)).hash

    base = digest()
    assert base == digest(cache="elsewhere") == digest("teacher.device=cpu", "teacher.batch_size=7")
    others = {
        digest("teachers.minilm.dims=5", cache="dims"),
        digest("data.train.noise=0.5", cache="corpus"),
        digest("teacher.scope=corpus"),
        digest("teacher.weight=0.5"),
        digest("teacher.target_temperature=0.1"),
    }
    assert len(others - {base}) == 5
