"""Models that are evaluated and not trained: a run's checkpoint, an exported folder, a model of open_clip."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torch import Tensor

from protoclip.cli import main, train
from protoclip.cli.evaluated import compose_evaluation
from protoclip.module import ImageTextPretraining
from protoclip.reports.rows import Row, read_rows
from protoclip.runs import features
from tests.protoclip.cli.test_errors import Complain
from tests.protoclip.cli.test_train import TASKS, words

HOW = ("trainer.accelerator=cpu", "+trainer.enable_progress_bar=false", "~callbacks.progress")
OF_TRAINING = {"cost", "prototypes"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was moved, and whose corpus is gone."""
    runs = tmp_path_factory.mktemp("runs")
    assert train(words(runs, "run.episodes=1", "seed=3")) == 0
    (made,) = (runs / "protoclip-scenes").iterdir()
    moved = made.rename(runs / "moved")
    file = moved / "lightning.yaml"
    settings = file.read_text()
    assert "noise: 0.1" in settings
    file.write_text(settings.replace("noise: 0.1", "noise: 7"))
    return moved


@pytest.fixture
def complain(capsys: pytest.CaptureFixture[str]) -> Complain:
    return Complain(capsys)


def rows_of(runs: Path) -> list[Row]:
    (file,) = runs.glob("*/*/rows.jsonl")
    return read_rows(file)


def metrics(rows: list[Row]) -> dict[str, dict[str, float | None]]:
    return {row["task"]: row["metrics"] for row in rows if row["task"] not in OF_TRAINING}


def test_a_run_says_what_its_model_is(run: Path, tmp_path: Path) -> None:
    before = read_rows(run / "rows.jsonl")
    assert main(["test", f"ckpt={run}", f"runs={tmp_path}", *HOW]) == 0
    rows = rows_of(tmp_path)
    assert metrics(rows) == metrics(before)
    labels = ("name", "model", "method", "seed", "data")
    assert {key: rows[0][key] for key in labels} == {key: before[0][key] for key in labels}  # type: ignore[literal-required]
    assert rows[0]["run"] != before[0]["run"]
    assert rows[0]["cost"] == before[0]["cost"]
    assert not (tmp_path / "protoclip-scenes" / rows[0]["run"] / "DONE").exists()


SET = """# @package evaluation.test
pictures: {mine: {_target_: datamodules.SOURCE}}
tasks: {mine_zero_shot: {_target_: protoclip.evaluation.ZeroShot, pictures: mine}}
"""


def write_colours(folder: Path) -> None:
    for name, colour in {"red": (200, 0, 0), "green": (0, 200, 0)}.items():
        (folder / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (40, 32), colour).save(folder / name / f"{number}.png")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of class folders, and a table of the same pictures."""
    folder = tmp_path / "photos"
    write_colours(folder)
    rows = [f"{file.relative_to(folder)},{file.parent.name}" for file in sorted(folder.glob("*/*.png"))]
    (folder / "table.csv").write_text("\n".join(["path,label", *rows]), encoding="utf-8")
    return folder


PICTURES = "{_target_:datamodules.labelled_folders.ClassFolders,root:ROOT,templates:[TEMPLATE]}"
TASK = "+evaluation.test.tasks.mine={_target_:protoclip.evaluation.NAME,pictures:mine}"


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Pictures of each batch that tests encode."""
    sizes: list[int] = []
    step = ImageTextPretraining.test_step

    def count(module: ImageTextPretraining, batch: dict[str, Tensor], *args: Any) -> Any:
        sizes.append(len(batch.get("index", ())))
        return step(module, batch, *args)

    monkeypatch.setattr(ImageTextPretraining, "test_step", count)
    return sizes


def added(folder: Path, task: str, *, name: str = "mine", template: str = "a {}") -> list[str]:
    """The words that add a set and a task on it."""
    pictures = PICTURES.replace("ROOT", str(folder)).replace("TEMPLATE", f"'{template}'")
    tasks = TASK.replace("NAME", task).replace("mine", name)
    return [f"+evaluation.test.pictures.{name}={pictures}", tasks]


def test_other_tasks_sets_and_prompts_encode_no_picture_again(run: Path, tmp_path: Path, encoded: list[int]) -> None:
    write_colours(tmp_path / "one")
    write_colours(tmp_path / "two")
    (tmp_path / "two" / "red" / "2.png").unlink()
    argv = ["test", f"ckpt={run}", f"runs={tmp_path / 'runs'}", *HOW]
    mine = added(tmp_path / "one", "ZeroShot")
    knn = TASK.replace("NAME", "KNN").replace("mine=", "near=").replace("pictures:mine", "pictures:mine,train:mine,k:2")
    for more, pictures in (
        (mine, 6),
        ([*mine, knn], 0),
        ([*mine, *added(tmp_path / "two", "ZeroShot", name="other")], 5),
        (added(tmp_path / "one", "ZeroShot", template="{} all over"), 0),
        (added(tmp_path / "one", "ZeroShot", name="renamed"), 0),
    ):
        before = {*tmp_path.glob("runs/*/*/rows.jsonl")}
        encoded.clear()
        assert main([*argv, *more]) == 0
        assert sum(encoded) == pictures
        assert len({*tmp_path.glob("runs/*/*/rows.jsonl")} - before) == 1
    assert len([*tmp_path.glob("runs/features/*")]) == 2 + 2  # of pictures, of prompts
    moved = (tmp_path / "runs").rename(tmp_path / "moved")
    assert {len(features(file.parent)) for file in moved.glob("*/*/rows.jsonl")} == {1, 2}


def test_a_mistake_in_an_evaluation_leaves_nothing(
    run: Path, tmp_path: Path, complain: Complain, caplog: pytest.LogCaptureFixture
) -> None:
    argv = ["test", f"ckpt={run}", f"runs={tmp_path / 'runs'}", *HOW]
    complain([*argv, "set=[dtd]", f"evaluation.root={tmp_path}"], main)
    assert sum("missing and left out" in message for message in caplog.messages) == 1
    assert not (tmp_path / "runs").exists()
    write_colours(tmp_path / "mine")
    (tmp_path / "mine" / "green" / "0.png").write_bytes(b"no picture")
    assert "0.png: not a readable picture" in complain([*argv, *added(tmp_path / "mine", "ZeroShot")], main)
    assert not (tmp_path / "runs").exists()


def test_a_set_of_ones_own_in_two_lines(run: Path, photos: Path, tmp_path: Path, complain: Complain) -> None:
    pictures = PICTURES.replace("ROOT", str(photos))
    runs: set[Path] = set()
    for template in ("a photo of {}", "{} all over"):
        lines = [f"+evaluation.test.pictures.mine={pictures}".replace("TEMPLATE", f"'{template}'")]
        argv = ["test", f"ckpt={run}", f"runs={tmp_path / 'runs'}", *HOW, *lines, TASK.replace("NAME", "ZeroShot")]
        assert main(argv) == 0
        found = {file.parent for file in (tmp_path / "runs").glob("*/*/rows.jsonl")}
        (new,) = found - runs  # other prompts are another evaluation
        runs = found
        assert {row["task"] for row in read_rows(new / "rows.jsonl")} - OF_TRAINING == {"mine"}
        assert features(new)["mine"].classnames == ("green", "red")
    knn = TASK.replace("NAME", "KNN").replace("mine=", "near=").replace("pictures:mine", "pictures:mine,train:mine")
    assert "error: task near: k must lie in 1 to 6" in complain([*argv, knn], main)
    (new,) = {file.parent for file in (tmp_path / "runs").glob("*/*/rows.jsonl")} - runs
    assert {row["task"] for row in read_rows(new / "rows.jsonl")} - OF_TRAINING == {"mine"}


@pytest.mark.parametrize(
    "source", ["labelled_folders.ClassFolders, root: PHOTOS", "labelled_tables.LabelledTable, path: PHOTOS/table.csv"]
)
def test_a_set_of_ones_own_in_a_file(source: str, run: Path, photos: Path, tmp_path: Path, complain: Complain) -> None:
    (tmp_path / "conf" / "set").mkdir(parents=True)
    text = SET.replace("SOURCE", source.replace("PHOTOS", str(photos)))
    (tmp_path / "conf" / "set" / "mine.yaml").write_text(text, encoding="utf-8")
    place = f"hydra.searchpath=[file://{tmp_path / 'conf'}]"
    argv = ["test", f"ckpt={run}", f"runs={tmp_path / 'runs'}", *HOW]
    assert main([*argv, place, "set=[mine]"]) == 0
    assert {row["task"] for row in rows_of(tmp_path / "runs")} - OF_TRAINING == {"mine_zero_shot"}
    (rows,) = (tmp_path / "runs").glob("*/*/rows.jsonl")
    assert features(rows.parent)["mine"].classnames == ("green", "red")
    assert "hydra.searchpath: no folder file:///nowhere" in complain(
        [*argv, "hydra.searchpath=[file:///nowhere]"], main
    )
    assert "set=mien: there is birdsnap" in complain([*argv, place, "set=[mien]"], main)
    doubled = [*words(tmp_path / "more", place, "set=[mine]", "evaluation=mine")]
    (tmp_path / "conf" / "evaluation").mkdir()
    defaults = "defaults: [none, {/set: [mine]}, _self_]\n"
    (tmp_path / "conf" / "evaluation" / "mine.yaml").write_text(defaults, encoding="utf-8")
    assert "evaluation=mine has mine already" in complain(doubled)


def test_nothing_to_evaluate_on(run: Path, tmp_path: Path, complain: Complain) -> None:
    argv = [f"ckpt={run}", f"runs={tmp_path}", *HOW, "set=[dtd]", f"evaluation.root={tmp_path}"]
    assert "put what torchvision's DTD reads" in complain(["test", *argv], main)
    assert "there is no validation set" in complain(["validate", *argv[:-1], "set=[scenes]"], main)
    part = ["predict", f"ckpt={run}", f"runs={tmp_path}", *HOW, "--trainer.limit_test_batches", "0.5"]
    assert "leave trainer.limit_test_batches out" in complain(part, main)


def test_words_choose_the_evaluation_alone(run: Path, tmp_path: Path) -> None:
    last = run / "checkpoints" / "last.ckpt"
    config = compose_evaluation([f"ckpt={run}", "evaluation=scenes", "trainer.precision=bf16-mixed"])
    assert (config.ckpt, config.seed, config.trainer.precision) == (str(last), 3, "bf16-mixed")
    assert (config.datamodule.image_size, config.evaluation.test.pictures.objects.image_size) == (32, 32)
    assert set(config.model.terms) == {"image_text", "prototype"}
    outside = tmp_path / "other.ckpt"
    shutil.copy(last, outside)
    assert compose_evaluation([f"ckpt={run}"]).trainer.precision == "32-true"
    assert compose_evaluation([f"ckpt={outside}", "method=clip"]).datamodule.train._target_.endswith("ScenePairs")


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "model"
    assert main(["export", str(run), str(folder)]) == 0
    return folder


def test_an_exported_model_scores_as_the_run_does(run: Path, exported: Path, tmp_path: Path) -> None:
    assert main(["test", *of(exported), f"++{TASKS}", f"runs={tmp_path}", *HOW]) == 0
    rows = rows_of(tmp_path)
    name = f"local-dir:{exported}"
    expected = metrics(read_rows(run / "rows.jsonl"))
    del expected["scenes_pseudo_labels"]  # of a head, which open_clip has not
    assert metrics(rows) == expected
    assert {row["task"] for row in rows} == set(expected)
    assert (rows[0]["method"], rows[0]["data"]["name"], rows[0]["model"]) == ("open_clip", "model", name)
    assert rows[0]["name"] == "open_clip-model"


def of(folder: Path) -> list[str]:
    return ["towers=open_clip", f"towers.name=local-dir:{folder}"]


def test_other_weights_are_another_model(exported: Path, tmp_path: Path) -> None:
    def digest() -> str:
        fingerprint: str = compose_evaluation([*of(folder), "evaluation=scenes"]).datamodule.train.fingerprint
        return fingerprint

    folder = tmp_path / "model"
    shutil.copytree(exported, folder)
    first = digest()
    weights = folder / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert digest() != first


def test_training_goes_on_from_a_folder(exported: Path, tmp_path: Path) -> None:
    tiny = [word for word in words(tmp_path, "run.episodes=1") if not word.startswith("towers.")]
    assert train([*tiny, *of(exported), "~evaluation.test.tasks.scenes_pseudo_labels"]) == 0
    assert {row["model"] for row in rows_of(tmp_path)} == {f"local-dir:{exported}"}


def test_a_tag_brings_its_preprocessing() -> None:
    chosen = ("towers.name=ViT-B-16-SigLIP", "towers.pretrained=webli", "evaluation=scenes")
    config = compose_evaluation(["towers=open_clip", *chosen])
    data = config.datamodule
    assert (data.image_size, list(data.mean), data.resize_mode) == (224, [0.5, 0.5, 0.5], "squash")
    assert (data.tokenize.context_length, data.tokenize.hf_name) == (64, "timm/ViT-B-16-SigLIP")
    assert dict(data.tokenize.options) == {"clean": "canonicalize"}
    assert (config.name, config.data.name) == ("open_clip-webli", "webli")
    assert list(config.model.heads) == []
    assert "prototype_refresh" not in config.callbacks
    assert not config.logger  # TensorBoard would be imported


@pytest.mark.parametrize(
    ("chosen", "line"),
    [
        (("ckpt=RUN", "method=clip"), "method=clip does not go with ckpt="),
        (("ckpt=RUN", "+towers.mask_token=true"), "+towers.mask_token=true does not go with ckpt="),
        (
            ("ckpt=RUN", "evaluation=none"),
            "nothing to evaluate on: choose evaluation=NAME or 'set=[NAME,...]'",
        ),
        (("ckpt=RUN/nothing",), "no file "),
        (("ckpt=RUN/checkpoints",), "holds no checkpoint: give a directory runs/NAME/HASH"),
        (("towers=open_clip",), "towers.name needs a value: add towers.name=NAME of open_clip, local-dir:DIR"),
        (("towers=open_clip", "towers.name=RN50"), "towers.name=RN50 has no weights of its own: add towers.pretrained"),
        (
            ("towers=open_clip", "towers.name=RN5", "towers.pretrained=a", "evaluation=scenes"),
            "no towers are named 'RN5'",
        ),
        (("towers=open_clip", "towers.name=local-dir:RUN", "evaluation=scenes"), "holds no open_clip_config.json"),
        (("towers=open_clip", "towers.name=RN50", "method=slip"), "method=slip does not go with towers=open_clip"),
        (
            ("towers=open_clip", "towers.name=RN50", "towers.pretrained=nix", "evaluation=scenes"),
            "pretrained='nix' is neither a file nor a tag of RN50; tags: openai",
        ),
    ],
)
def test_mistakes(chosen: tuple[str, ...], line: str, run: Path, complain: Complain, tmp_path: Path) -> None:
    words = [word.replace("RUN", str(run)) for word in chosen]
    assert line in complain(["test", *words, f"runs={tmp_path}/new", *HOW], main)
    assert not (tmp_path / "new").exists()
