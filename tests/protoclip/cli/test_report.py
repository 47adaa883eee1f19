import csv
import json
import shutil
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from protoclip.cli import main
from protoclip.cli.compose import compose_config
from protoclip.cli.experiment import run_experiment
from protoclip.runs import Run
from tests.conftest import TINY, TINY_PROTOTYPES
from tests.pages import Parsed, parse
from tests.phone import on_a_phone

SETS = (
    "evaluation=scenes",
    "evaluation.every=2",
    "evaluation.monitor=null",
    "evaluation.validation.pictures.scenes.size=40",
    "evaluation.validation.pictures.objects.size=64",
    "evaluation.validation.pictures.objects_train.size=64",
    "evaluation.test.pictures.scenes.size=40",
    "evaluation.test.pictures.objects.size=64",
    "evaluation.test.pictures.objects_train.size=128",
    "~evaluation.test.tasks.scenes_linear_probe",
)
SECTIONS = ["results", "curves", "embeddings", "prototypes", "similarities", "confusion", "cost"]


def words(runs: Path, *more: str) -> list[str]:
    kept = [word for word in TINY if word not in ("evaluation=none", "logger=none", "~callbacks.learning_rate")]
    return [*kept, *SETS, f"runs={runs}", *more]


@dataclass(frozen=True)
class Reported:
    """Two seeds of CLIP and one of ProtoCLIP, and their report."""

    runs: list[Run]
    out: Path
    page: Parsed


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Reported:
    folder = tmp_path_factory.mktemp("report")
    asked = [
        ["method=clip"],
        ["method=clip", "seed=1"],
        ["method=protoclip", *TINY_PROTOTYPES, "prototype.num_prototypes=2", "prototype.images_per_prototype=null"],
    ]
    runs = [run_experiment(compose_config(words(folder / "runs", *more))) for more in asked]
    out = folder / "out" / "page.html"
    paths = [str(run.path) for run in (runs[0], runs[2], runs[1], runs[0])]
    assert main(["report", *paths, "--out", str(out), "--projector"]) == 0
    return Reported(runs, out, parse(out.read_text(encoding="utf-8")))


def test_the_page_stands_alone(reported: Reported) -> None:
    assert reported.page.ids == SECTIONS
    assert not reported.page.unclosed
    assert not reported.page.fetched
    assert "script" not in reported.page.tags


def test_seeds_of_an_arm_are_averaged(reported: Reported) -> None:
    facts, settings, results = reported.page.tables
    clip, second, proto = reported.runs
    assert [line[:4] for line in facts[1:]] == [
        ["clip", f"{clip.path.name}, {second.path.name}", "0, 1", "clip"],
        ["protoclip", proto.path.name, "0", "protoclip"],
    ]
    assert facts[1][4:6] == ["small-resnet", f"scenes {clip.facts['manifest'][:8]}"]
    assert "model.banks.prototype.init_args.num_prototypes" in {line[0] for line in settings}
    assert not any("seed" in line[0] for line in settings)
    lines = {line[0]: line[1:] for line in results}
    assert lines["seeds"] == ["2", "1"]
    top1 = [
        next(row for row in run.rows if row["task"] == "scenes_zero_shot")["metrics"]["top1"] for run in (clip, second)
    ]
    assert lines["scenes top1"]
    mean = sum(value or 0.0 for value in top1) / 2
    zero_shot = results[[line[0] for line in results].index("zero-shot classification") + 1]
    assert zero_shot[1].startswith(f"{mean:.2f} ± ")


def test_every_section_has_its_figures(reported: Reported) -> None:
    names = [image.alt for image in reported.page.images]
    assert len(names) == len(set(names))
    curves = [name for name in names if name.endswith("over episodes")]
    assert "train/loss over episodes" in curves
    assert "validation/scenes_retrieval/mean_recall over episodes" in curves
    for title in ("clip", "protoclip"):
        assert f"t-SNE of objects, {title}" in names
        assert f"similarities of image-text pairs, {title}" in names
        assert f"zero-shot confusion of objects, {title}" in names
    assert "seconds of training by phase" in names
    assert sum("prototype" in name for name in names if name.startswith("nearest")) == 4
    for image in reported.page.images:
        if image.kind == "image/svg+xml":
            assert image.content.count(b"<path") > 5
        else:
            with Image.open(BytesIO(image.content)) as opened:
                assert min(opened.size) > 100
                assert len(opened.convert("L").getcolors(256) or []) > 20


def test_the_page_fits_a_phone(reported: Reported, tmp_path: Path) -> None:
    found = on_a_phone(reported.out.read_text(encoding="utf-8"), tmp_path)
    assert found.title == "clip and protoclip"
    assert found.scroll <= found.inner
    assert len(found.images) == len(reported.page.images) > 10
    assert all(found.images)
    assert found.smallest >= 11


def test_one_legend_names_the_colours_of_all_maps(reported: Reported) -> None:
    legend = reported.page.texts["li"]
    assert legend.count("house") == 1
    assert legend.count("other") == 1


def test_rows_say_which_pictures_they_are_of(reported: Reported) -> None:
    first, second, _ = ({row["task"]: row["sets"] for row in run.rows} for run in reported.runs)
    assert first == second
    assert {*first["scenes_knn"]} == {"objects", "objects_train"}
    assert first["cost"] == {}


def test_what_is_left_out_says_why(reported: Reported) -> None:
    told = [text for text in reported.page.texts["p"] if text.startswith("Left out")]
    assert told == ["Left out: no prototypes in clip."]


def test_tables_lie_beside_the_page(reported: Reported) -> None:
    lines = reported.out.with_suffix(".md").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "# clip and protoclip"
    assert lines[2] == "| metric | clip | protoclip |"
    with reported.out.with_suffix(".csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["arm"] for row in rows] == ["clip", "protoclip"]
    assert rows[0]["scenes_zero_shot/top1:count"] == "2"
    assert rows[1]["cost/steps:mean"] == "16"


def test_projector_has_names_and_thumbnails(reported: Reported) -> None:
    for run in (reported.runs[0], reported.runs[2]):
        folder = run.path / "tensorboard" / "projector"
        (metadata,) = folder.glob("*/objects/metadata.tsv")
        names = metadata.read_text(encoding="utf-8").split("\n")[:-1]
        assert len(names) == 64
        assert len(set(names)) == 64
        assert not any(name.isdecimal() for name in names)
        (sprite,) = folder.glob("*/objects/sprite.png")
        with Image.open(sprite) as sheet:
            assert sheet.size == (8 * 32, 8 * 32)


def test_a_comparison_and_a_run_beside_it(reported: Reported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protoclip.cli.report_features.stored_features", lambda run: {})
    monkeypatch.setattr("protoclip.cli.report_features.prototype_panels", lambda run: [])
    folder = reported.runs[0].path.parent.parent / "compare" / "mine"
    folder.mkdir(parents=True)
    arms = {"My CLIP": reported.runs[0], "The other": reported.runs[2]}
    lines = [json.dumps({**row, "arm": title}) for title, run in arms.items() for row in run.rows]
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    out = tmp_path / "both.html"
    assert main(["report", str(reported.runs[1].path), str(folder), "--out", str(out)]) == 0
    page = parse(out.read_text(encoding="utf-8"))
    assert page.tables[2][0] == ["", "clip", "My CLIP", "The other"]
    told = [text for text in page.texts["p"] if text.startswith("Left out")]
    assert told[0].startswith("Left out: clip, My CLIP, The other have no stored features of a labelled set: protoclip")
    assert len(told) == 4


def test_settings_tell_arms_of_one_method_apart(reported: Reported, tmp_path: Path) -> None:
    from protoclip.cli.arms import find_arms

    other = tmp_path / "other"
    shutil.copytree(reported.runs[1].path, other)
    settings = (other / "lightning.yaml").read_text(encoding="utf-8")
    (other / "lightning.yaml").write_text(settings.replace("lr: 0.002", "lr: 0.5"), encoding="utf-8")
    arms = find_arms([reported.runs[0].path, other])
    assert [arm.title for arm in arms] == ["clip, lr=0.002", "clip, lr=0.5"]


def broken(kind: str, run: Run, folder: Path) -> list[str]:
    """What to report, with a mistake in it."""
    path = folder / "run"
    if kind == "unfinished":
        shutil.copytree(run.path, path)
        (path / "DONE").unlink()
    elif kind == "no run":
        path.mkdir()
    elif kind == "no common task":
        shutil.copytree(run.path, path)
        rows = (path / "rows.jsonl").read_text(encoding="utf-8").replace('"task": "scenes', '"task": "others')
        (path / "rows.jsonl").write_text(rows, encoding="utf-8")
    elif kind == "nowhere":
        return [str(run.path), "--out", "/proc/x/page.html"]
    return [str(run.path), str(path), "--out", str(folder / ("page.pdf" if kind == "no page" else "page.html"))]


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("unfinished", "/run is not tested yet: protoclip test --config "),
        ("nowhere", "no folder can be made at /proc/x: choose another place"),
        ("no run", "holds no results: give a run directory runs/NAME/HASH"),
        ("no common task", "have no task in common: test them on the same sets"),
        ("no page", "let --out end in .html"),
    ],
)
def test_mistakes_are_told_in_one_line(
    kind: str, told: str, reported: Reported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", *broken(kind, reported.runs[0], tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert told in error
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("page*"))


def test_a_set_that_is_not_there_is_told(
    reported: Reported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["report", str(reported.runs[0].path), "--pictures", "cifar10", "--out", str(tmp_path / "page.html")]
    assert main(asked) == 2
    assert "no features of a labelled set 'cifar10': set --pictures to one of objects" in capsys.readouterr().err
