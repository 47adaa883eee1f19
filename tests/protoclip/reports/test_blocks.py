from pathlib import Path

import pytest

from protoclip.reports.blocks import render_blocks
from protoclip.reports.rows import Row, append_rows

TEXT = "Before.\n<!-- table: rows.jsonl | x_knn/top1=k-NN, cost/steps=steps -->\nstale\n<!-- end of table -->\nAfter.\n"


def row(arm: str, task: str, metrics: dict[str, float | None], seed: int = 0) -> Row:
    return Row(
        run=f"run-{arm}" + (f"-{seed}" if seed else ""),
        name="n",
        git="abc",
        model="m",
        method="clip",
        seed=seed,
        data={"name": "x", "fingerprint": "f"},
        task=task,
        metrics=metrics,
        counts={},
        prompts=None,
        cost={},
        time="2026-01-01T00:00:00+00:00",
        arm=arm,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [row(arm, "x_knn", {"top1": top1}) for arm, top1 in (("CLIP", 10.0), ("ProtoCLIP", 12.5))]
    rows += [row(arm, "cost", {"steps": 8.0}) for arm in ("CLIP", "ProtoCLIP")]
    append_rows(tmp_path / "rows.jsonl", rows)
    return tmp_path


def test_a_block_is_filled_and_the_rest_is_left(folder: Path) -> None:
    rendered = render_blocks(TEXT, folder)
    assert "stale" not in rendered
    assert rendered.startswith("Before.\n<!-- table: rows.jsonl")
    assert rendered.endswith("<!-- end of table -->\nAfter.\n")
    assert "k-NN" in rendered
    assert "**12.50** (+2.50)" in rendered
    assert "runs run-CLIP, run-ProtoCLIP; revision abc" in rendered


def test_rendering_twice_changes_nothing(folder: Path) -> None:
    once = render_blocks(TEXT, folder)
    assert render_blocks(once, folder) == once


def test_missing_rows_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no rows at .*rows.jsonl"):
        render_blocks(TEXT, tmp_path)


def test_intervals(folder: Path) -> None:
    rows = [row(arm, "x_knn", {"top1": top1}, 1) for arm, top1 in (("CLIP", 10.0), ("ProtoCLIP", 13.5))]
    append_rows(folder / "rows.jsonl", rows)
    assert "(+3.00 ± 0.50)" in render_blocks(TEXT, folder)
    text = TEXT.replace("steps -->", "steps | intervals -->")
    once = render_blocks(text, folder)
    assert "(+3.00 [-3.35, 9.35])" in once
    assert render_blocks(once, folder) == once


def test_claims_have_their_words_from_the_config(folder: Path) -> None:
    rows = [
        row(arm, "scenes_linear_probe", {"top1": 30.0 + seed}, seed)
        for arm in ("CLIP", "ProtoCLIP")
        for seed in range(3)
    ]
    append_rows(folder / "rows.jsonl", rows)
    text = "<!-- claims: rows.jsonl | compare=scenes -->\nstale\n<!-- end of table -->\n"
    once = render_blocks(text, folder)
    assert "stale" not in once
    line = "| ProtoCLIP beats CLIP at equal steps | scenes_linear_probe/top1 (margin 0.5) | 3 | +0.00 [0.00, 0.00] |"
    assert f"{line} not confirmed |" in once
    assert "revision abc" in once
    assert render_blocks(once + TEXT, folder) == once + render_blocks(TEXT, folder)
    with pytest.raises(ValueError, match=r"there is no conf/compare/other.yaml"):
        render_blocks(text.replace("=scenes", "=other"), folder)
