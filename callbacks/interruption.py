"""SIGTERM, and the SIGUSR1 that SLURM sends before a job's time is up, end a run in order."""

import signal
import sys
import threading
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from protoclip.module import ImageTextPretraining

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
EXIT_CODE = 143


class Interrupted(SystemExit):
    """A signal has ended the process, with exit code 143; the same command goes on after the last finished episode."""

    def __init__(self) -> None:
        super().__init__(EXIT_CODE)


class Interruption(Callback):
    """Ends a run at its next training step, extraction batch or evaluation batch after a signal.

    Nothing is saved inside an episode. Several processes agree at each training step and extraction batch, so that a
    signal to one of them stops all at the same place; the numbers of their evaluation batches may differ, so that
    there they only agree at the end of the test.
    """

    def __init__(self) -> None:
        self._received: signal.Signals | None = None
        self._handlers: dict[signal.Signals, Any] = {}
        self._batches_to_agree_on = 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Remember the handlers that there are before Lightning puts in its own, and listen to the module's clock."""
        assert isinstance(pl_module, ImageTextPretraining)
        self._trainer = trainer
        if self not in pl_module.clock.listeners:
            pl_module.clock.listeners.append(self)
        self._handlers = {number: signal.getsignal(number) for number in SIGNALS}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take over from Lightning, which would save inside an episode and exit with 0."""
        self._handle()

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take over from Lightning."""
        self._handle()

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Look for a signal."""
        self._stop_if_asked()

    def on_validation_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Look for a signal, where no other process has to agree."""
        if trainer.world_size == 1:
            self._stop_if_asked()

    def on_test_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Look for a signal, where no other process has to agree."""
        if trainer.world_size == 1:
            self._stop_if_asked()

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look for a signal before the test is scored."""
        self._stop_if_asked()

    def phase_changed(self, name: str | None, total: int | None) -> None:
        """Know when the prototype refresh extracts, and how many batches of it all processes have."""
        datamodule = self._trainer.datamodule  # type: ignore[attr-defined]
        self._batches_to_agree_on = datamodule.common_extraction_batches if name == "extraction" else 0

    def phase_advanced(self) -> None:
        """Look for a signal at every batch of the extraction."""
        if self._batches_to_agree_on:
            self._batches_to_agree_on -= 1
            self._stop_if_asked()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Put back the handlers; a signal that came too late for the training ends the test."""
        self._put_back()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Put back the handlers.

        A signal to the whole process group kills the loaders' workers too, and the loader may complain first.

        Raises:
            Interrupted: in the place of that complaint.
        """
        self._put_back()
        if self._received and isinstance(exception, RuntimeError) and "DataLoader worker" in str(exception):
            raise self._interrupted() from exception

    def _handle(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self._receive)

    def _put_back(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._handlers.items():
                signal.signal(number, handler)

    def _receive(self, number: int, frame: object) -> None:
        self._received = signal.Signals(number)

    def _stop_if_asked(self) -> None:
        asked = self._received is not None or self._trainer.received_sigterm  # Lightning's, before ours took over
        if self._trainer.strategy.reduce_boolean_decision(asked, all=False):
            raise self._interrupted()

    def _interrupted(self) -> Interrupted:
        if self._trainer.is_global_zero:
            name = (self._received or signal.SIGTERM).name
            told = "the same command goes on after the last finished episode"
            print(f"{name} in episode {self._trainer.current_epoch + 1}: {told}", file=sys.stderr)  # noqa: T201
        self._received = None
        return Interrupted()
