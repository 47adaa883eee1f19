import copy
import itertools
from collections.abc import Iterator

import pytest

from protoclip.clock import PhaseClock


class Time:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Listener:
    def __init__(self) -> None:
        self.heard: list[tuple[str | None, int | None] | str] = []

    def phase_changed(self, name: str | None, total: int | None) -> None:
        self.heard.append((name, total))

    def phase_advanced(self) -> None:
        self.heard.append("step")


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    fake = Time()
    monkeypatch.setattr("protoclip.clock.time", fake)
    return fake


def test_an_inner_phase_pauses_the_outer_one(time: Time) -> None:
    clock = PhaseClock()
    time.sleep(7)  # nobody's
    clock.begin("training")
    time.sleep(1)
    with clock.phase("extraction"):
        time.sleep(2)
        with clock.phase("clustering"):
            time.sleep(4)
        time.sleep(8)
    time.sleep(16)
    clock.end()
    time.sleep(32)
    assert clock.pop_seconds() == {"training": 17.0, "extraction": 10.0, "clustering": 4.0}


def test_seconds_are_taken_once_also_in_the_middle_of_a_phase(time: Time) -> None:
    clock = PhaseClock()
    clock.begin("training")
    time.sleep(3)
    assert clock.pop_seconds() == {"training": 3.0}
    time.sleep(5)
    clock.end()
    assert clock.pop_seconds() == {"training": 5.0}
    assert clock.pop_seconds() == {}


def test_phases_of_one_name_add_up(time: Time) -> None:
    clock = PhaseClock()
    for seconds in (1, 2):
        with clock.phase("clustering"):
            time.sleep(seconds)
    assert clock.pop_seconds() == {"clustering": 3.0}


def test_track_times_the_loop_and_its_loader(time: Time) -> None:
    def load() -> Iterator[int]:
        for step in range(3):
            time.sleep(1)
            yield step

    clock = PhaseClock()
    for _ in clock.track("extraction", load()):
        time.sleep(10)
    assert clock.pop_seconds() == {"extraction": 33.0}


def test_an_error_ends_the_phase(time: Time) -> None:
    clock = PhaseClock()
    clock.begin("training")

    def fail() -> None:
        with clock.phase("clustering"):
            time.sleep(1)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    time.sleep(2)
    clock.end()
    assert clock.pop_seconds() == {"clustering": 1.0, "training": 2.0}


def test_a_copy_has_no_listeners() -> None:
    """They lead to the trainer, which a pickled or copied module must not bring along."""
    clock = PhaseClock()
    clock.listeners.append(Listener())
    assert copy.deepcopy(clock).listeners == []
    assert len(clock.listeners) == 1


def test_listener_hears_phases_and_steps(time: Time) -> None:
    clock, listener = PhaseClock(), Listener()
    clock.listeners.append(listener)
    clock.begin("training", 4)
    assert list(clock.track("extraction", [7, 8])) == [7, 8]
    list(clock.track("streaming", itertools.repeat(0, 1).__iter__()))
    clock.end()
    assert listener.heard == [
        ("training", 4),
        ("extraction", 2),
        "step",
        "step",
        ("training", 4),
        ("streaming", None),
        "step",
        ("training", 4),
        (None, None),
    ]
