from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from omegaconf import OmegaConf

from protoclip.cli.arms import Arm, differences, find_arms, set_fingerprints, settings_of, unlike
from protoclip.cli.report import report
from protoclip.reports import Row, append_rows
from protoclip.runs import ROWS, SETTINGS, Run
from tests.pages import parse


def row(seed: int, *, counts: int = 64, prompts: str | None = "p1", method: str = "clip", **fields: Any) -> Row:
    made: dict[str, Any] = {
        **{"run": f"r{seed}", "name": "n", "git": "g", "model": "m", "method": method, "seed": seed},
        **{"data": {"name": "d", "fingerprint": "f"}, "task": "x_zero_shot", "metrics": {"top1": 10.0}},
        **{
            "counts": {"x_pictures": counts, "classes": 8},
            "prompts": prompts,
            "cost": {},
            "time": "2026-01-01T00:00:00",
        },
        **fields,
    }
    return cast(Row, made)


def run(folder: Path, rows: Sequence[Row], settings: Mapping[str, Any] | None = None) -> Run:
    append_rows(folder / ROWS, rows)
    if settings is not None:
        OmegaConf.save(OmegaConf.create(dict(settings)), folder / SETTINGS)
    return Run(folder, folder.name)


def of(name: str, **options: Any) -> dict[str, Any]:
    return {"class_path": f"somewhere.{name}", "init_args": options}


def trained(seed: int, *callbacks: dict[str, Any], tested: int = 0, lr: float = 0.1) -> dict[str, Any]:
    return {
        "seed_everything": seed,
        "model": {"seed": seed, "lr": lr},
        "data": {"seed": seed, "test": {"x": of("Scenes", seed=tested)}},
        "trainer": {"callbacks": list(callbacks)},
    }


@pytest.mark.parametrize(("tested", "arms"), [(0, 1), (1, 2)])
def test_runs_whose_test_sets_are_drawn_by_other_seeds_are_two_arms(tmp_path: Path, tested: int, arms: int) -> None:
    run(tmp_path / "a", [row(0)], trained(0))
    run(tmp_path / "b", [row(1)], trained(1, tested=tested))
    assert len(find_arms([tmp_path / "a", tmp_path / "b"])) == arms


def test_a_seed_that_is_not_the_runs_is_a_setting(tmp_path: Path) -> None:
    settings = trained(3)
    settings["model"]["seed"] = 4
    assert settings_of(run(tmp_path, [row(3)], settings)) == {
        "model.seed": 4,
        "model.lr": 0.1,
        "data.test.x.class_path": "somewhere.Scenes",
        "data.test.x.init_args.seed": 0,
        "trainer.callbacks": [],
    }


def test_a_callback_more_moves_no_other(tmp_path: Path) -> None:
    kept = (of("Timer", every=1), of("Checkpoint", top=1), of("Checkpoint", top=2))
    first = run(tmp_path / "a", [row(0)], trained(0, *kept))
    second = run(tmp_path / "b", [row(0)], trained(0, of("Refresh", share=0.5), *kept))
    found = differences([Arm("a", (first,)), Arm("b", (second,))])
    assert found == {
        "trainer.callbacks.Refresh.class_path": ["-", "somewhere.Refresh"],
        "trainer.callbacks.Refresh.init_args.share": ["-", "0.5"],
    }
    assert settings_of(second)["trainer.callbacks.Checkpoint 2.init_args.top"] == 2


def test_an_arm_without_settings_tells_none_apart(tmp_path: Path) -> None:
    for name, settings in (("a", trained(0)), ("b", trained(0, lr=0.5)), ("c", None)):
        run(tmp_path / name, [row(0)], settings)
    paths = [tmp_path / name for name in "abc"]
    assert [arm.title for arm in find_arms(paths)] == ["clip, lr=0.1", "clip, lr=0.5", "clip"]
    page = parse(report(paths, tmp_path / "page.html").read_text(encoding="utf-8"))
    assert page.tables[1] == [["setting", "clip, lr=0.1", "clip, lr=0.5"], ["model.lr", "0.1", "0.5"]]


def test_tasks_on_other_pictures_or_prompts_are_told(tmp_path: Path) -> None:
    first = run(tmp_path / "a", [row(0, counts=9), row(0), row(0, task="x_knn"), row(0, task="y_zero_shot")])
    second = run(
        tmp_path / "b",
        [
            row(0, counts=60, prompts="p2", method="other"),
            row(0, task="x_knn"),
            row(0, task="y_zero_shot", prompts="p2"),
        ],
    )
    told = ["x_zero_shot (x pictures 64 and 60; prompts)", "y_zero_shot (prompts)"]
    assert unlike([Arm("a", (first,)), Arm("b", (second,))]) == told
    assert unlike([Arm("a", (first,))]) == []
    out = report([first.path, second.path], tmp_path / "page.html")
    line = f"Not measured on the same for all: {', '.join(told)}."
    assert line in parse(out.read_text(encoding="utf-8")).texts["p"]
    assert out.with_suffix(".md").read_text(encoding="utf-8").endswith(f"\n\n{line}\n")


def test_other_pictures_of_one_number_are_told(tmp_path: Path) -> None:
    of_a, of_b, of_c = ({"x": fingerprint * 64} for fingerprint in "abc")
    first = run(tmp_path / "a", [row(0, sets=of_a), row(0, task="x_knn", sets=of_a)])
    second = run(tmp_path / "b", [row(0, sets=of_b), row(0, task="x_knn", sets=of_a)])
    earlier = run(tmp_path / "c", [row(0), row(0, task="x_knn")])
    smaller = run(tmp_path / "d", [row(0, sets=of_c, counts=60)])
    told = "x_zero_shot (fingerprints of x aaaaaaaa and bbbbbbbb)"
    assert unlike([Arm("a", (first,)), Arm("b", (second,)), Arm("c", (earlier,))]) == [told]
    assert unlike([Arm("a", (first, second))]) == [told]
    assert unlike([Arm("a", (first,)), Arm("c", (earlier,))]) == []
    assert unlike([Arm("a", (first,)), Arm("d", (smaller,))]) == ["x_zero_shot (x pictures 64 and 60)"]
    assert set_fingerprints(first) == of_a
    assert set_fingerprints(earlier) == {}
