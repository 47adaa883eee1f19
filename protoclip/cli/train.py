"""``protoclip-train``: fit, then test, of a composed config or of a sweep of them."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from protoclip.cli.collector import no_collection
from protoclip.cli.compose import CONFIGS, SEARCHPATH, refuse_doubled_sets, refuse_missing_folders
from protoclip.cli.errors import exit_code


def train(argv: Sequence[str] | None = None) -> int:
    """Run Hydra's command line.

    Args:
        argv: words after the program's name, ``sys.argv`` by default.

    Returns:
        Exit code: 0, or 2 after a mistake that the user can mend, told in one line.
    """
    outcomes: list[int] = []

    @hydra.main(version_base="1.3", config_path=f"pkg://{CONFIGS}", config_name="config")
    def job(config: DictConfig) -> None:
        with no_collection():
            from protoclip.cli.experiment import run_experiment  # noqa: PLC0415 - torch and Lightning take seconds

        def run() -> None:
            words = HydraConfig.get().overrides
            refuse_doubled_sets([*words.task, *(word for word in words.hydra if word.startswith(SEARCHPATH))])
            run_experiment(config)

        outcomes.append(exit_code(run))  # in a sweep the others go on

    def started() -> None:
        refuse_missing_folders(sys.argv[1:])
        job()

    os.environ["HYDRA_FULL_ERROR"] = "1"
    words = sys.argv
    if argv is not None:  # Lightning runs this line again in each process that it starts
        sys.argv = [str(Path(sys.executable).with_name("protoclip-train")), *argv]
    try:
        return max([exit_code(started), *outcomes])
    finally:
        sys.argv = words
        GlobalHydra.instance().clear()
