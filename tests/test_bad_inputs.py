"""Whatever is wrong with words or manifest: exit code 2, one line, the name of what is wrong, and nothing written."""

import os
import time
from collections import Counter
from pathlib import Path

import pytest

from protoclip.cli import train
from tests.bad_inputs import BadInput, bad_inputs, write_picture


def complaint(case: BadInput, runs: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What the mistake is told as, checked."""
    capsys.readouterr()
    code = train([*case.base, f"runs={runs}", *case.words])
    captured = capsys.readouterr()
    assert (code, captured.err.count("\n")) == (2, 1), f"{case}: {code} {captured.err}"
    assert captured.err.startswith("error: "), f"{case}: {captured.err}"
    assert case.named in captured.err, f"{case}: {captured.err}"
    assert captured.out == "", f"{case}: {captured.out}"
    assert not runs.exists(), f"{case}: wrote {list(runs.rglob('*'))}"
    return captured.err


def test_a_few_at_random(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_picture(tmp_path)
    for case in bad_inputs(0, 24, tmp_path):
        complaint(case, tmp_path / "runs", capsys)


@pytest.mark.slow
def test_a_thousand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_picture(tmp_path)
    start, told, first_words = time.perf_counter(), [], Counter[str]()
    for case in bad_inputs(1, 1000, tmp_path):
        line = complaint(case, tmp_path / "runs", capsys).replace(str(tmp_path), "FOLDER")
        told.append(f"{' '.join(case.words).replace(str(tmp_path), 'FOLDER')}\n    {line}")
        first_words[case.named] += 1
    summary = f"{len(told)} mistakes, {len(first_words)} names, {time.perf_counter() - start:.0f} s\n"
    Path(os.environ.get("PROTOCLIP_FUZZ_LOG", tmp_path / "log")).write_text(summary + "".join(told), encoding="utf-8")
