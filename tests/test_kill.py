"""A run that is killed again and again at random moments ends as one that was not (SIGKILL from outside)."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, TextIO

import pytest
from torch import Tensor

from protoclip.checkpoints import read_checkpoint
from protoclip.reports.rows import read_rows
from tests.conftest import TINY, TINY_PROTOTYPES

ROOT = Path(__file__).parent.parent
EPISODES = 28
PICTURES = "{pairs:{_target_:datamodules.scenes.ScenePairs,split:val,size:12,image_size:32}}"
TASKS = "{retrieval:{_target_:protoclip.evaluation.Retrieval,pictures:pairs}}"
PART = f"{{pictures:{PICTURES},tasks:{TASKS}}}"
WORDS = (
    *(word for word in TINY if not word.startswith(("run.episodes", "logger"))),
    *TINY_PROTOTYPES,
    "~logger.tensorboard",
    f"++evaluation={{every:2,monitor:validation/retrieval/mean_recall,validation:{PART},test:{PART}}}",
    "++trainer.log_every_n_steps=3",
    "+datamodule.evaluation_batch_size=8",
    "prototype.warmup_episodes=0",
    f"run.episodes={EPISODES}",
    "+callbacks.announcer={_target_:tests.kill_driver.Announcer}",
)
WANTED = {"extraction": 4, "clustering": 4, "training": 4, "checkpoint": 5, "back_translation": 3, "validation": 3}
"""Kills that are aimed at a phase; one that comes late hits the next phase."""
LASTS = {"extraction": 0.25, "clustering": 0.3, "training": 0.25, "checkpoint": 0.5, "back_translation": 0.2}


@dataclass
class Process:
    """The driver, started once."""

    runs: Path
    workers: int
    phases: Path
    lines: list[str] = field(default_factory=list)

    def __enter__(self) -> "Process":
        self.phases.unlink(missing_ok=True)
        command = [sys.executable, "-m", "tests.kill_driver", str(self.phases), f"runs={self.runs}", *WORDS]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [*command, f"num_workers={self.workers}"], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def told(self) -> list[str]:
        """Whole lines so far."""
        return self.phases.read_text().split("\n")[:-1] if self.phases.exists() else []

    def reached(self, phase: str, times: int) -> bool:
        """Wait for a phase; False if the process ends before."""
        while self.process.poll() is None:
            if self.told().count(phase) >= times:
                return True
            time.sleep(0.005)
        return False


def tensors(value: Any, path: str = "") -> Iterator[tuple[str, bytes]]:
    """All that a part of a checkpoint holds, in order."""
    if isinstance(value, Tensor):
        yield path, value.contiguous().numpy().tobytes()
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            yield from tensors(value[key], f"{path}/{key}")
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            yield from tensors(item, f"{path}/{place}")
    else:
        yield path, repr(value).encode()


def digest(parts: Iterator[tuple[str, bytes]]) -> str:
    whole = sha256()
    for name, content in parts:
        whole.update(name.encode() + content)
    return whole.hexdigest()


def results(run: Path) -> dict[str, str]:
    """Hashes of all that must be equal."""
    checkpoint = read_checkpoint(run / "checkpoints" / "last.ckpt")
    weights, optimizer = checkpoint["state_dict"], checkpoint["optimizer_states"]
    bank = {name: value for name, value in weights.items() if name.startswith("banks.")}
    rows: list[Any] = []
    for row in read_rows(run / "rows.jsonl"):
        metrics = {name: value for name, value in row["metrics"].items() if not name.startswith(("sec", "rel"))}
        rows.append([row["task"], metrics, row["counts"], row["run"], row["data"]])
    assert bank
    return {
        "weights": digest(tensors(weights)),
        "optimizer": digest(tensors([optimizer, checkpoint["lr_schedulers"]])),
        "bank": digest(tensors(bank)),
        "metrics.csv": sha256((run / "metrics.csv").read_bytes()).hexdigest(),
        "rows": sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest(),
    }


def saved_episodes(run: Path) -> int:
    """Episodes in the last checkpoint, which is whole."""
    last = run / "checkpoints" / "last.ckpt"
    return int(read_checkpoint(last)["epoch"]) + 1 if last.exists() else 0


def only_run(runs: Path) -> Path:
    return next((runs / "protoclip-scenes").iterdir())


@pytest.mark.slow
def test_a_killed_run_ends_like_one_that_was_not(tmp_path: Path) -> None:
    with Path(os.environ.get("PROTOCLIP_KILL_LOG", tmp_path / "kills.log")).open("w", buffering=1) as log:
        kill_and_compare(tmp_path, log)


def kill_and_compare(tmp_path: Path, log: TextIO) -> None:
    with Process(tmp_path / "whole", 0, tmp_path / "phases") as process:
        assert process.process.wait() == 0
    whole = results(only_run(tmp_path / "whole"))
    log.write(
        f"one run of {EPISODES} episodes that is killed at random moments and started again, and one that is not\n"
    )
    draw = random.Random(0)
    aims = [phase for phase, number in WANTED.items() for _ in range(number)]
    draw.shuffle(aims)
    runs, hit, episodes = tmp_path / "killed", Counter[str](), 0
    for number, aim in enumerate([*aims, *["test"] * 3]):
        times, delay = draw.choice((1, 2)), draw.uniform(0, LASTS.get(aim, 0.25))
        with Process(runs, 2 * (number % 2), tmp_path / "phases") as process:
            assert process.reached(aim, 1 if aim == "test" else times), f"the run ended before kill {number}"
            time.sleep(delay)
            process.process.send_signal(signal.SIGKILL)
            assert process.process.wait() == -signal.SIGKILL
            told = process.told()
        assert episodes == EPISODES or f"start {episodes}" in told
        before, episodes = episodes, saved_episodes(only_run(runs))
        hit[told[-1]] += 1
        log.write(
            f"kill {number + 1:2}  workers {process.workers}  resumed after episode {before:2}  "
            f"killed in {told[-1]:16} {delay:.3f} s after {aim}, round {times}; episodes saved {episodes:2}\n"
        )
    with Process(runs, 0, tmp_path / "phases") as process:
        assert process.process.wait() == 0
    log.write(f"kills by phase: {', '.join(f'{name} {count}' for name, count in hit.most_common())}\n")
    killed = results(only_run(runs))
    for name, value in killed.items():
        log.write(f"{name:12} {value}  {'equal' if value == whole[name] else f'but {whole[name]}'}\n")
    assert killed == whole
    assert sum(hit.values()) >= 20
    assert all(hit[phase] >= 3 for phase in ("extraction", "clustering", "training", "checkpoint", "test"))
    names = {path.name for path in (only_run(runs) / "checkpoints").iterdir()}
    assert names == {"last.ckpt", "previous.ckpt", "best.ckpt"}
