"""The README tells the truth: its tables come from their rows, its commands and options exist."""

import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from protoclip.cli import main
from protoclip.cli.main import _parser
from protoclip.reports.blocks import render_blocks
from protoclip.reports.rows import read_rows
from protoclip.reports.speed import read_speed

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [block for text in (README, *DOCS) for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL)]
LINES = [shlex.split(line, comments=True) for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()]
COMMANDS = [words for words in LINES if words]
OWN_SETS = [block for text in DOCS for block in re.findall(r"```yaml\n(# @package .*?)```", text, re.DOTALL)]
OURS = [words for words in COMMANDS if words[0] in {"protoclip", "protoclip-train"}]


def test_it_is_short() -> None:
    assert len(README.splitlines()) < 260


@pytest.mark.parametrize("name", ["README.md", "EXPERIMENTS.md", "benchmarks/README.md"])
def test_tables_are_generated_from_their_rows(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert re.search("<!-- (table|speed):", text)
    assert render_blocks(text, (ROOT / name).parent) == text


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "results").glob("*.jsonl")), ids=lambda path: path.name)
def test_rows_name_their_revision(path: Path) -> None:
    rows = read_speed(path) if path.name == "speed.jsonl" else read_rows(path)
    for row in rows:
        assert re.fullmatch(r"[0-9a-f]{7,40}", row["git"]), "rows of a changed checkout cannot be repeated"


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {words[1] for words in COMMANDS if words[0] == "make"} | set(re.findall(r"`make ([a-z-]+)`", README))
    assert {"demo", "test"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("words", OURS, ids=" ".join)
def test_commands_compose(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine.yaml").write_text(OWN_SETS[0], encoding="utf-8")
    flags = next((place for place, word in enumerate(words) if word.startswith("--")), len(words))
    overrides = [word for word in words[1:flags] if "=" in word]  # the others are commands, -m and folders
    overrides = [word.replace("file://FOLDER", f"file://{tmp_path}") for word in overrides]
    with initialize_config_module("conf", version_base="1.3"):
        assert compose("config", overrides=overrides).method


def test_commands_exist() -> None:
    known = {command for action in _parser()._actions for command in action.choices or ()}
    named = set(re.findall(r"`protoclip ([a-z]+)", README)) | {words[1] for words in OURS if words[0] == "protoclip"}
    assert {"compare", "data", "teacher"} <= named <= known


def test_options_exist() -> None:
    with initialize_config_module("conf", version_base="1.3"):
        config = compose("config")
    named = set(re.findall(r"`((?:prototype|episode|run|data|teacher|towers)\.[a-z_.]+?)(?:\.\*)?`", README))
    assert named
    for name in named:
        missing = object()
        assert OmegaConf.select(config, name, default=missing) is not missing, name


def test_table_command_rewrites_a_file(tmp_path: Path) -> None:
    copy = tmp_path / "README.md"
    (tmp_path / "benchmarks").symlink_to(ROOT / "benchmarks")
    copy.write_text(re.sub(r"\| CLIP at equal cost .*\n", "", README), encoding="utf-8")
    assert main(["table", str(copy)]) == 0
    assert copy.read_text(encoding="utf-8") == README


@pytest.mark.slow
def test_the_demo_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "experiment=demo", f"runs={tmp_path}"]) == 0
    folder = tmp_path / "compare" / "scenes"
    assert {path.name for path in folder.iterdir()} == {
        ".lock", "rows.jsonl", "table.md", "table.csv", "claims.md", "tsne.png", "prototypes.png",
    }  # fmt: skip
    assert "CLIP at equal cost" in capsys.readouterr().out
