"""Imports point one way: protoclip <- datamodules <- callbacks <- protoclip.cli."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "protoclip": {"protoclip"},
    "datamodules": {"protoclip", "datamodules"},
    "callbacks": {"protoclip", "datamodules", "callbacks"},
    "protoclip/cli": {"protoclip", "datamodules", "callbacks"},
}
OURS = {"protoclip", "datamodules", "callbacks", "conf", "tests"}
FILES = sorted(path for folder in ("protoclip", "datamodules", "callbacks") for path in (ROOT / folder).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Every module that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            assert node.module is not None
            yield node.module


def reached(path: Path, seen: set[str]) -> set[str]:
    """Every module that a file imports, by way of ours too."""
    for name in {*imported(path)} - seen:
        seen.add(name)
        place = ROOT / name.replace(".", "/")
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if name.split(".")[0] in OURS and file.exists():
                reached(file, seen)
    return seen


def layer(path: Path) -> str:
    relative = path.relative_to(ROOT).as_posix()
    return max((name for name in ALLOWED if relative.startswith(name + "/")), key=len)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_point_to_the_left(path: Path) -> None:
    names = list(imported(path))
    assert {name.split(".")[0] for name in names} & OURS <= ALLOWED[layer(path)]
    if layer(path) != "protoclip/cli":
        assert not [name for name in names if name.startswith("protoclip.cli")]


def test_shards_are_read_without_the_time_that_tables_take_to_import() -> None:
    assert {"numpy", "torch"} <= (names := reached(ROOT / "datamodules" / "shards.py", set()))
    assert not {name.split(".")[0] for name in names} & {"pandas", "pyarrow"}
