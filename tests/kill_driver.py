"""``protoclip-train`` that tells what it is doing and takes its time, so that a kill can hit it there (test_kill.py).

``python -m tests.kill_driver PHASES WORD ...`` appends a line to the file PHASES whenever a phase begins.
"""

import io
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from protoclip.cli import train
from protoclip.module import ImageTextPretraining

PAUSES = {"extraction": 0.05, "clustering": 0.3, "back_translation": 0.2, "training": 0.15, "validation": 0.3}
CHUNKS = 20
PAUSE = 0.02


class Announcer(Callback):
    """Writes down each phase, and makes it last."""

    phases = Path("phases")

    @classmethod
    def tell(cls, what: str) -> None:
        """One line at once."""
        with cls.phases.open("a") as file:
            file.write(what + "\n")

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Listen to the clock."""
        assert isinstance(pl_module, ImageTextPretraining)
        if self not in pl_module.clock.listeners:
            pl_module.clock.listeners.append(self)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tell where the run goes on."""
        self.tell(f"start {trainer.current_epoch}")

    def phase_changed(self, name: str | None, total: int | None) -> None:
        """Tell the phase."""
        self.tell("episode" if name in {None, "training"} else str(name))  # training is told of step by step
        time.sleep(0 if name == "training" else PAUSES.get(name or "", 0))

    def phase_advanced(self) -> None:
        """An extraction batch."""
        time.sleep(PAUSES["extraction"])

    def on_train_batch_start(self, *_: Any) -> None:
        """A step."""
        self.tell("training")
        time.sleep(PAUSES["training"])

    def on_test_batch_start(self, *_: Any) -> None:
        """The test."""
        self.tell("test")
        time.sleep(PAUSES["validation"])


def _save_slowly() -> None:
    """Let the writing of a checkpoint last, with a file that grows, and the moments around each change of a name."""
    save = torch.save

    def slow_save(content: object, file: BinaryIO) -> None:
        Announcer.tell("checkpoint")
        buffer = io.BytesIO()
        save(content, buffer)
        whole = buffer.getvalue()
        size = len(whole) // CHUNKS + 1
        for start in range(0, len(whole), size):
            file.write(whole[start : start + size])
            file.flush()
            time.sleep(PAUSE)

    def slowly(name: str) -> None:
        change = getattr(Path, name)

        def changed(path: Path, target: Path) -> Any:
            time.sleep(PAUSE)
            result = change(path, target)
            time.sleep(PAUSE)
            return result

        setattr(Path, name, changed)

    torch.save = slow_save  # type: ignore[assignment]
    slowly("replace")
    slowly("hardlink_to")


if __name__ == "__main__":
    from tests.kill_driver import Announcer as Imported  # the one that Hydra finds, not that of __main__

    Announcer.phases = Imported.phases = Path(sys.argv[1])
    torch.set_num_threads(1)
    _save_slowly()
    sys.exit(train(sys.argv[2:]))
