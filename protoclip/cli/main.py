"""``protoclip COMMAND ...``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from protoclip.cli.errors import exit_code


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: words after the program's name, ``sys.argv`` by default.

    Returns:
        Exit code: 0, or 2 after a mistake that the user can mend, told in one line.
    """
    arguments = _parser().parse_args(sys.argv[1:] if argv is None else argv)
    return exit_code(lambda: arguments.command(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="protoclip", description="Image-text pretraining, compared fairly.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("compare", help="run the arms of a comparison, print one table, write figures")
    command.add_argument("overrides", nargs="*", help="Hydra words, such as experiment=demo compare.seeds=[0,1,2]")
    command.set_defaults(command=_compare)
    command = commands.add_parser("table", help="write the tables of a Markdown file anew from their rows")
    command.add_argument("file", type=Path)
    command.set_defaults(command=_table)
    return parser


def _compare(arguments: argparse.Namespace) -> None:
    from protoclip.cli.compare import compare  # noqa: PLC0415 - torch and Lightning take seconds

    compare(arguments.overrides)


def _table(arguments: argparse.Namespace) -> None:
    from protoclip.reports.blocks import render_blocks  # noqa: PLC0415

    if not arguments.file.is_file():
        raise ValueError(f"no file {arguments.file}: give a Markdown file with table blocks")
    text = arguments.file.read_text(encoding="utf-8")
    arguments.file.write_text(render_blocks(text, arguments.file.parent), encoding="utf-8")
