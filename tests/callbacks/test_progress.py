from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from callbacks import progress
from callbacks.progress import EpisodeProgress
from datamodules.scenes import SceneObjects, ScenePairs
from datamodules.sources import Pictures
from tests.tiny import Built, build, tiny_config

WORDS = ("run.episodes=2", "prototype.warmup_episodes=1", "callbacks.progress.refresh_rate=1")


@dataclass
class Bar:
    """A bar that remembers what became of it."""

    desc: str
    total: int | None
    options: dict[str, Any]
    steps: int = 0
    closed: bool = False
    opened_while: list[str] = field(default_factory=list)

    def update(self, steps: int = 1) -> None:
        assert not self.closed
        self.steps += steps

    def close(self) -> None:
        assert not self.closed
        self.closed = True


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> list[Bar]:
    """Bars of the phases, those of the refresh; training and validation have Lightning's own."""
    bars: list[Bar] = []

    def opened(desc: str, total: int | None, **options: Any) -> Bar:
        assert all(bar.closed for bar in bars), "two phases at once"
        bars.append(Bar(desc, total, options))
        return bars[-1]

    monkeypatch.setattr(progress, "Tqdm", opened)
    return bars


def progress_of(built: Built) -> EpisodeProgress:
    return next(callback for callback in built.callbacks if isinstance(callback, EpisodeProgress))


class Titles(Callback):
    """Reads the training bar at every step."""

    def __init__(self) -> None:
        self.titles: list[str] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        bar = trainer.progress_bar_callback
        assert isinstance(bar, EpisodeProgress)
        self.titles.append(str(bar.train_progress_bar.desc))
        assert "v_num" not in bar.get_metrics(trainer, trainer.lightning_module)


def test_phases_have_bars_of_their_own(tmp_path: Path, bars: list[Bar]) -> None:
    built, titles = build(tiny_config(tmp_path, "protoclip", *WORDS, progress=True)), Titles()
    built.datamodule.evaluation_batch_size = 12
    built.fit(titles)
    names = ["extracting", "clustering", "back-translating"]
    assert [bar.desc for bar in bars] == [f"episode 2/2 {name}" for name in names]
    assert all(bar.closed for bar in bars)
    extraction = bars[0]
    assert extraction.total == extraction.steps == 3
    assert not any(bar.options["leave"] for bar in bars)
    assert titles.titles == ["episode 1/2 training: "] * 4 + ["episode 2/2 training: "] * 4


def test_the_terminal_shows_what_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build(tiny_config(tmp_path, "protoclip", *WORDS, progress=True)).fit()
    shown = capsys.readouterr().out
    phases = ["1/2 training", "2/2 extracting", "2/2 clustering", "2/2 back-translating", "2/2 training"]
    places = [shown.index(f"episode {phase}") for phase in phases]
    assert places == sorted(places)
    assert "Epoch" not in shown
    assert ": 0it [" not in shown
    assert "train/loss=" in shown


def test_the_bar_of_the_test_names_the_sets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    built = build(tiny_config(tmp_path, "clip", "callbacks.progress.refresh_rate=1", progress=True))
    sets: dict[str, Pictures] = {
        "pairs": ScenePairs("val", 9, image_size=32),
        "objects": SceneObjects("test", 9, image_size=32),
    }
    built.datamodule.test, built.datamodule.evaluation_batch_size = sets, 4
    for told in ("extracting {}:", "{} is extracted:"):
        built.trainer.test(built.module, datamodule=built.datamodule, verbose=False)
        shown = capsys.readouterr().out
        places = [shown.index(told.format(name)) for name in sets]
        assert places == sorted(places)
        assert ("3/3" in shown) == ("extracting" in told)
        assert "DataLoader" not in shown


@pytest.mark.parametrize("how", ["rate", "disabled"])
def test_a_bar_that_is_off_shows_no_phases(tmp_path: Path, bars: list[Bar], how: str) -> None:
    built = build(tiny_config(tmp_path, "protoclip", *WORDS, progress=True))
    bar = progress_of(built)
    bar.setup(built.trainer, built.module, "fit")
    with built.module.clock.phase("extraction"):
        pass
    assert len(bars) == 1
    if how == "rate":
        bar._refresh_rate = 0
    else:
        bar.disable()
    with built.module.clock.phase("extraction"):
        bar.phase_advanced()
    assert len(bars) == 1


def test_training_and_validation_have_lightnings_bars(tmp_path: Path, bars: list[Bar]) -> None:
    built = build(tiny_config(tmp_path, "clip", progress=True))
    bar = progress_of(built)
    bar.setup(built.trainer, built.module, "fit")
    assert built.module.clock.listeners == [bar]
    for phase in ("training", "validation"):
        with built.module.clock.phase(phase):
            bar.phase_advanced()
    assert bars == []
