"""Features of a run's test sets, extracted anew."""

import os

import pytorch_lightning as pl

from callbacks.evaluation import Evaluation
from datamodules.datamodule import ImageTextDataModule
from protoclip.evaluation import Extracted
from protoclip.instantiate import instantiate
from protoclip.runs import load


def features(run_dir: str | os.PathLike[str]) -> dict[str, Extracted]:
    """Features of the test sets by name, rows in the order of the set.

    Args:
        run_dir: a run directory.
    """
    module, settings = load(run_dir)
    datamodule = instantiate(ImageTextDataModule, settings["data"], "data")
    evaluation = Evaluation()
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, callbacks=[evaluation]
    )
    trainer.test(module, datamodule=datamodule, verbose=False)
    return evaluation.extracted
