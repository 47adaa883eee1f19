"""What a user can mend is one line and exit code 2; what he cannot keeps its traceback."""

import errno
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from callbacks.phase_timer import PhaseTimer
from protoclip.cli import main, train
from protoclip.cli.errors import exit_code, told
from protoclip.runs import Run
from tests.protoclip.cli.test_train import words


class Complain:
    """Runs a command that must fail, and gives its one line."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, argv: Sequence[str], command: Any = train) -> str:
        self.capsys.readouterr()
        assert command(argv) == 2
        line = self.capsys.readouterr().err
        assert line.startswith("error: ")
        assert line.count("\n") == 1
        return line


@pytest.fixture
def complain(capsys: pytest.CaptureFixture[str]) -> Complain:
    return Complain(capsys)


def the_run(runs: Path) -> Run:
    (path,) = (path.parent for path in runs.glob("*/*/run.json"))
    return Run(path, path.name)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folder of a finished run, and a copy of it."""
    runs = tmp_path_factory.mktemp("runs")
    assert train(words(runs)) == 0
    return runs, shutil.copytree(runs, tmp_path_factory.mktemp("copy"), dirs_exist_ok=True)


@pytest.fixture
def runs(kept: tuple[Path, Path]) -> Path:
    """The folder of a finished run, as it was when it ended."""
    folder, copy = kept
    shutil.rmtree(folder)
    return shutil.copytree(copy, folder)


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("batch_sise=4", "batch_sise: there is no such option: did you mean 'batch_size'?"),
        ("metod=clip", "metod: there is no such option: did you mean 'method'?"),
        (
            "method=protclip",
            "method=protclip: there is clip, declip, defilip, distillation, filip, protoclip, pyramidclip, slip, "
            "teacher: did you mean 'protoclip'?",
        ),
        ("set=[cifar11]", "set=cifar11: there is birdsnap, cars, cifar10, cifar100, coco, country211"),
        ("set=[cifar11]", "ucf101: did you mean 'cifar10'?"),
        ("teacher=[minilmm]", "teacher=minilmm: there is clip_image, clip_text, dino, minilm, roberta_large: did you"),
        ("term=[tokns]", "simsiam, tokens: did you mean 'tokens'?"),
        ("set=cifar11", "ucf101: did you mean 'cifar10'?"),
        ("hydra.searchpath=[file:///nowhere]", "hydra.searchpath: no folder file:///nowhere: check the path"),
        ("+towers.leff_blocks=1", "error: towers.leff_blocks=1 is there already: leave the + out\n"),
        ("evaluation.test.pictures.mine={root:x}", "pictures.mine: there is no such option yet: put a + before it to"),
        ("trainer.limit_test_batches=3", "trainer.limit_test_batches: there is no such option yet: put a + before it"),
        ("+terms.image_text.wieght=2", "terms.image_text.wieght: there is no such option: did you mean 'weight'?"),
        ("batch_size=[4", "cannot read 'batch_size=[4'"),
        ("method=clip,protoclip", "method=clip,protoclip': add -m for a sweep"),
        ("prototype.kmeans.device=cuda", "this FAISS build has no GPU: set prototype.kmeans.backend=torch"),
        ("prototype.images_per_prototype=0.5", "set prototype.num_prototypes between 1 and 32"),
        ("episode.size=100", "set episode.size to 64 or less, or episode.replacement=true"),
        ("batch_size=64", "set batch_size between 1 and episode.size"),
        ("optimizer.optimizer.lr=-1", "optimizer.optimizer: Invalid learning rate: -1.0"),
        ("trainer.accelerator=gpu", "trainer: No supported gpu backend found!"),
        ("ckpt=last.ckpt", "ckpt is for protoclip validate, test and predict"),
        ("trainer.precision=16-mixed", "set optimizer.optimizer.fused=false"),
        ("evaluation.monitor=validation/retrieval/mean_recall", "names no task of evaluation.validation: none"),
    ],
)
def test_a_wrong_word(word: str, line: str, tmp_path: Path, complain: Complain) -> None:
    assert line in complain(words(tmp_path / "runs", word))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (None, "no file matches"),
        ("", "is empty: it needs a header and rows"),
        ("filepath,title\n", "holds no pair: it needs rows"),
        ("filepath,caption\na.png,a cat\n", "has no column 'title'"),
    ],
)
def test_a_wrong_manifest(content: str | None, line: str, tmp_path: Path, complain: Complain) -> None:
    path = tmp_path / "pairs.csv"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    kept = (word for word in words(tmp_path / "runs") if not word.startswith("data."))
    told_ = complain([*kept, "data=manifest", f"data.path={path}"])
    assert line in told_
    assert "pairs.csv" in told_


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_a_stage_without_a_checkpoint(stage: str, tmp_path: Path, complain: Complain) -> None:
    assert "holds no checkpoint: train it first" in complain([stage, *words(tmp_path)], main)
    assert "no file nowhere.ckpt" in complain([stage, *words(tmp_path), "ckpt=nowhere.ckpt"], main)


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["fitt"], "invalid choice: 'fitt'"),
        ([], "COMMAND"),
        (["fit", "--config", "nowhere.yaml", "--run_dir", "x"], "no file nowhere.yaml"),
        (["fit", "--config", "README.md"], "give --run_dir DIR"),
        (["fit", "--config", "README.md", "--run_dir", "x"], "README.md is no LightningCLI file"),
        (["fit", "batch_sise=3"], "batch_sise: there is no such option"),
        (["runs", "nowhere"], "no runs in nowhere"),
        (["compare"], "needs arms: give experiment=demo"),
        (["table", "nowhere.md"], "no file nowhere.md"),
        (["table", "conf/config.yaml"], "there is no block to fill: write <!-- table: "),
    ],
)
def test_wrong_commands(argv: list[str], line: str, complain: Complain) -> None:
    assert line in complain(argv, main)


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--trainer.max_epoch", "2"], "--trainer.max_epoch: there is no such option: did you mean '--trainer.max_ep"),
        (["--trainer.max_epochs", "x"], "--trainer.max_epochs: expected int or null"),
        (["--model.weight_decay=-1"], "--model.weight_decay: should be greater than or equal to 0"),
        (["--data.batch_size=64"], "set batch_size between 1 and episode.size"),
        (["--model.banks.prototype.num_prototypes=3"], "give either prototype.num_prototypes or"),
        (["--trainer.accelerator=gpu"], "trainer: No supported gpu backend found!"),
        (["--seed_everything=5"], "give seed=5 before the first dash"),
        (["--run.name=other"], "give name=other before the first dash"),
        (["--ckpt_path=last.ckpt"], "ckpt is for protoclip validate, test and predict"),
    ],
)
def test_wrong_flags(flags: list[str], line: str, tmp_path: Path, complain: Complain) -> None:
    assert line in complain(["fit", *words(tmp_path), *flags], main)


def test_the_checkpoint_of_another_method(runs: Path, tmp_path: Path, complain: Complain) -> None:
    last = the_run(runs).last
    assert last is not None
    ckpt = tmp_path / "moved.ckpt"  # out of the run, which would say what the model is
    shutil.copy(last, ckpt)
    clip = [word for word in words(tmp_path / "other", "method=clip", f"ckpt={ckpt}") if "prototype" not in word]
    line = complain(["test", *clip], main)
    assert not (tmp_path / "other").exists()
    assert "terms image_text, prototype; here image_text" in line
    assert "give the options that it was trained with, such as method" in line


def of_no_run(folder: Path) -> dict[str, Path]:
    """Files that are no checkpoints."""
    (folder / "table.csv").write_text("path,label\n", encoding="utf-8")
    torch.save({"weight": torch.zeros(2)}, folder / "weights.pt")
    torch.save({"state_dict": {"weight": torch.zeros(2)}}, folder / "open_clip.pt")
    return {path.name: path for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["table.csv", "weights.pt", "open_clip.pt"])
def test_what_is_no_checkpoint(name: str, tmp_path: Path, complain: Complain) -> None:
    path = of_no_run(tmp_path)[name]
    line = complain(["test", *words(tmp_path / "runs", f"ckpt={path}")], main)
    assert f"error: {path} is no checkpoint (" in line
    assert line.endswith("): give runs/NAME/HASH, or a file in its checkpoints\n")
    assert not (tmp_path / "runs").exists()


def test_a_truncated_checkpoint_and_the_one_before(runs: Path, complain: Complain) -> None:
    argv = words(runs)
    run = the_run(runs)
    (run.path / "DONE").unlink()
    assert run.last is not None
    run.last.write_bytes(run.last.read_bytes()[:-1000])
    line = complain(argv)
    previous = run.last.with_name("previous.ckpt")
    assert f"mv {previous} {run.last}" in line
    previous.replace(run.last)
    assert train(argv) == 0
    assert run.done


def test_two_runs_in_one_directory(runs: Path, complain: Complain) -> None:
    run = the_run(runs)
    (run.path / "DONE").unlink()
    with run.lock():
        assert "is being written by another process: wait for it" in complain(words(runs))


def test_the_directory_of_another_run(runs: Path, complain: Complain) -> None:
    run = the_run(runs)
    before = {path: path.read_bytes() for path in run.path.iterdir() if path.is_file()}
    line = complain(["fit", *words(runs, "optimizer.weight_decay=0.2"), "--run_dir", str(run.path)], main)
    assert "holds another run (model.weight_decay is 0.5 there and 0.2 here): give another --run_dir" in line
    assert before == {path: path.read_bytes() for path in run.path.iterdir() if path.is_file()}
    assert main(["fit", *words(runs), "--run_dir", str(run.path), "--data.num_workers=1"]) == 0


def test_runs_is_a_file(tmp_path: Path, complain: Complain) -> None:
    (tmp_path / "runs").touch()
    assert "choose a folder, such as runs=FOLDER" in complain(words(tmp_path / "runs"))


@pytest.mark.parametrize(
    "argv",
    [
        ["data", "check", "data=scenes", "--out", "/proc/x/found.json"],
        ["data", "show", "data=scenes", "--out", "/proc/x/sheet.png"],
        ["data", "convert", "data=scenes", "/proc/x/corpus"],
        ["fit", *words(Path("/proc/x"))],
    ],
)
def test_where_no_folder_can_be_made(argv: list[str], complain: Complain) -> None:
    line = complain(argv, main)
    assert "no folder can be made at /proc/x" in line
    assert "choose another place" in line


def test_a_full_disk(tmp_path: Path, complain: Complain, monkeypatch: pytest.MonkeyPatch) -> None:
    argv = words(tmp_path)
    fsync, number = os.fsync, 0

    def full(descriptor: int) -> None:
        if ".last.ckpt." in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    for number in (errno.ENOSPC, errno.EDQUOT):
        assert os.strerror(number) in complain(argv)
        run = the_run(tmp_path)
        assert run.last is None
        assert not list(run.path.rglob("*.tmp"))
    monkeypatch.undo()
    assert train(argv) == 0
    assert run.done


def test_a_loss_that_is_not_finite(tmp_path: Path, complain: Complain) -> None:
    argv = words(tmp_path, "optimizer.optimizer.lr=1e30", "optimizer.schedule.warmup=0")
    line = complain(argv)
    run = the_run(tmp_path)
    diagnostic = run.path / "checkpoints" / "diagnostic.ckpt"
    assert "loss is not finite at step 1 of episode 0 (image_text nan" in line
    assert "lower optimizer.optimizer.lr" in line
    assert str(diagnostic) in line
    assert torch.load(diagnostic, weights_only=True)["diagnostic"]["step"] == 1
    assert run.last is None
    assert complain(argv) == line


@pytest.mark.parametrize(
    ("readable", "line"),
    [
        (0, "others tried in its place cannot be read: cannot read"),
        (40, "mend the corpus, or raise data.max_faults=0.1"),
    ],
)
def test_too_many_unreadable_pictures(readable: int, line: str, tmp_path: Path, complain: Complain) -> None:
    rows = "".join(f"{number}.png,a cat\n" for number in range(64))
    (tmp_path / "pairs.csv").write_text(f"filepath,title\n{rows}", encoding="utf-8")
    for number in range(readable):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number}.png")
    kept = (word for word in words(tmp_path / "runs") if not word.startswith("data."))
    assert line in complain([*kept, "data=manifest", f"data.path={tmp_path / 'pairs.csv'}"])


def test_a_fault_keeps_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        int("not ours")

    monkeypatch.setattr(PhaseTimer, "on_train_epoch_start", fail)
    with pytest.raises(ValueError, match="invalid literal") as caught:
        train(words(tmp_path))
    assert told(caught.value) is None


def test_exit_codes() -> None:
    assert exit_code(lambda: None) == 0
    with pytest.raises(KeyError):
        exit_code(lambda: dict[str, int]()["a"])
    with pytest.raises(FileNotFoundError):
        exit_code(lambda: Path("/nowhere").read_text())


def test_a_warning_is_one_line_and_told_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest has some that the command line has not

    def command() -> None:
        for _ in range(2):
            logging.getLogger("datamodules.datamodule").warning("missing and left out: %s", "dtd")
            logging.info("open_clip's, which would add a handler of another format")

    assert exit_code(command) == 0
    assert capsys.readouterr().err == "missing and left out: dtd\n"


def test_no_code_swallows_everything() -> None:
    root = Path(__file__).parents[3]
    for package in ("protoclip", "datamodules", "callbacks", "benchmarks"):
        for path in (root / package).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            assert "except Exception" not in text, path
            assert "except BaseException" not in text, path
            assert "except:" not in text, path


def test_a_corpus_without_its_path(complain: Complain) -> None:
    assert "data.path needs a value: add data.path=VALUE" in complain(["data=folder"])
