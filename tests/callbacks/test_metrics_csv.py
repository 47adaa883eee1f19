"""metrics.csv goes on where a run goes on (callbacks/metrics_csv.py)."""

from pathlib import Path

import pytest
import torch
from lightning_utilities.core.rank_zero import rank_zero_only

from callbacks.metrics_csv import MetricsCSV

Rows = list[tuple[int, dict[str, float]]]
ROWS: Rows = [
    (9, {"epoch": 0, "train/loss": 4.5}),
    (15, {"epoch": 0, "validation/loss": 3.25}),
    (16, {"epoch": 1, "kmeans/image": 0.1}),
    (19, {"epoch": 1, "train/loss": 4.25}),
    (31, {"epoch": 1, "validation/loss": 3.125}),
    (32, {"epoch": 2, "test/top1": 12.5}),
]
WHOLE = """\
epoch,step,kmeans/image,test/top1,train/loss,validation/loss
0,9,,,4.5,
0,15,,,,3.25
1,16,0.1,,,
1,19,,,4.25,
1,31,,,,3.125
2,32,,12.5,,
"""


def log(folder: Path, rows: Rows, *exclude: str) -> str:
    logger = MetricsCSV(folder, exclude)
    for step, figures in rows:
        logger.log_metrics(figures, step)
    return logger.path.read_text()


def test_rows_and_columns(tmp_path: Path) -> None:
    assert log(tmp_path / "run", ROWS) == WHOLE
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["metrics.csv"]


@pytest.mark.parametrize("torn", ["", "2,3", "1,20,,,"])
@pytest.mark.parametrize(("killed", "resumed"), [(k, r) for k in range(1, 7) for r in range(min(k + 1, 6))])
def test_a_run_that_goes_on_leaves_the_same_file(tmp_path: Path, killed: int, resumed: int, torn: str) -> None:
    """From wherever it goes on, at or before where it was killed."""
    log(tmp_path, ROWS[:killed])
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write(torn)
    assert log(tmp_path, ROWS[resumed:]) == WHOLE


def test_every_row_is_written_at_once(tmp_path: Path) -> None:
    logger = MetricsCSV(tmp_path)
    for number in range(1, 4):
        logger.log_metrics({"a": 1.0}, number)
        assert len(logger.path.read_text().splitlines()) == number + 1


def test_other_figures_of_one_step_have_rows_of_their_own(tmp_path: Path) -> None:
    assert log(tmp_path, [(9, {"lr": 0.5}), (9, {"loss": 1.0})]) == "epoch,step,loss,lr\n,9,,0.5\n,9,1.0,\n"


def test_times_stay_out(tmp_path: Path) -> None:
    rows: Rows = [(1, {"epoch": 0, "seconds/training": 1.5, "relative_epoch": 1.0}), (2, {"seconds": 1.0})]
    assert log(tmp_path, rows, "seconds/", "relative_epoch") == "epoch,step,seconds\n,2,1.0\n"


def test_numbers_keep_all_their_digits(tmp_path: Path) -> None:
    value = float(torch.tensor(0.1)) / 3
    line = log(tmp_path, [(1, {"a": value})]).splitlines()[1]
    assert float(line.split(",")[2]) == value


def test_only_the_first_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    MetricsCSV(tmp_path).log_metrics({"a": 1.0}, 1)
    assert not list(tmp_path.iterdir())
