"""Seconds of an episode by phase. Phases nest: the inner one's time is not counted in the outer one."""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Listener(Protocol):
    """Somebody who wants to know what is going on, such as a progress bar."""

    def phase_changed(self, name: str | None, total: int | None) -> None:
        """A phase begins (None: the last one ended), of so many steps if that is known."""

    def phase_advanced(self) -> None:
        """One step of the current phase is done."""


class PhaseClock:
    """Times phases and tells its listeners about them."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.listeners: list[Listener] = []
        self._stack: list[tuple[str, int | None]] = []
        self._since = time.perf_counter()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "listeners": []}  # a copy of the module leaves its run behind

    def begin(self, name: str, total: int | None = None) -> None:
        """Enter a phase; the surrounding one pauses."""
        self._charge()
        self._stack.append((name, total))
        self._tell()

    def end(self) -> None:
        """Leave the current phase."""
        self._charge()
        self._stack.pop()
        self._tell()

    @contextmanager
    def phase(self, name: str, total: int | None = None) -> Iterator[None]:
        """Time the body as one phase."""
        self.begin(name, total)
        try:
            yield
        finally:
            self.end()

    def track(self, name: str, steps: Iterable[T]) -> Iterator[T]:
        """Time a loop as one phase, and tell the listeners of each step."""
        with self.phase(name, len(steps) if isinstance(steps, Sized) else None):
            for step in steps:
                yield step
                for listener in self.listeners:
                    listener.phase_advanced()

    def pop_seconds(self) -> dict[str, float]:
        """Seconds by phase since the last call."""
        self._charge()
        seconds = dict(self.seconds)
        self.seconds.clear()
        return seconds

    def _charge(self) -> None:
        now = time.perf_counter()
        if self._stack:
            self.seconds[self._stack[-1][0]] += now - self._since
        self._since = now

    def _tell(self) -> None:
        for listener in self.listeners:
            listener.phase_changed(*(self._stack[-1] if self._stack else (None, None)))
