"""``protoclip data COMMAND ...``: what can be done with a corpus without training on it."""

import argparse
from pathlib import Path
from typing import Any, TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[Any]"

FORMATS = ("shards", "folder", "tsv", "csv", "jsonl", "parquet")
"""What a corpus can be converted to."""


def add_data_commands(commands: Commands) -> None:
    """Add ``data`` with its commands to those of the program."""
    data = commands.add_parser("data", help="check, convert and look at a corpus").add_subparsers(
        required=True, metavar="COMMAND"
    )
    _add_check(data)
    _add_convert(data)
    _add_show(data)


def _add_check(commands: Commands) -> None:
    command = commands.add_parser(
        "check", help="read all pairs; count faults, words and duplicates", allow_abbrev=False
    )
    command.add_argument("overrides", nargs="*", help="Hydra words, such as data=manifest data.path=pairs.tsv")
    command.add_argument("--limit", type=int, help="read so many pairs, drawn by --seed, instead of all")
    command.add_argument("--seed", type=int, default=0, help="of the draw, 0 by default")
    command.add_argument("--workers", type=_workers, help="processes that read, num_workers=... by default")
    command.add_argument("--out", type=Path, help="write what is found to this JSON file too")
    command.set_defaults(command=_check)


def _add_convert(commands: Commands) -> None:
    command = commands.add_parser(
        "convert", help="write a corpus, or part of it, in another format", allow_abbrev=False
    )
    command.add_argument("overrides", nargs="*", help="Hydra words, such as data=manifest data.path=pairs.tsv")
    command.add_argument("out", type=Path, help="the folder to write, which must not be there yet")
    command.add_argument("--to", choices=FORMATS, default="shards", help="format, shards by default")
    command.add_argument("--per-shard", type=int, default=10_000, help="pairs of a shard or sub-folder")
    command.add_argument("--top", type=int, help="only so many pairs with the highest --by")
    command.add_argument("--by", help="numeric column of the manifest, or field of KEY.json, such as similarity")
    command.add_argument("--subset", type=int, help="only so many pairs, drawn by --seed, of the top ones if given")
    command.add_argument("--seed", type=int, default=0, help="of the draw, 0 by default")
    command.add_argument("--resize", type=int, help="shrink pictures to this shorter side; others are copied")
    command.add_argument("--workers", type=_workers, help="processes that read, num_workers=... by default")
    command.set_defaults(command=_convert)


def _add_show(commands: Commands) -> None:
    command = commands.add_parser("show", help="write a sheet of pairs, with their views", allow_abbrev=False)
    command.add_argument("overrides", nargs="*", help="Hydra words, such as data=scenes views=none,light,simclr")
    command.add_argument("--out", type=Path, default=Path("sheet.png"), help="the file, sheet.png by default")
    command.add_argument("--pairs", type=int, default=6, help="rows of the sheet")
    command.add_argument("--draws", type=int, default=4, help="samples of each view in a row")
    command.set_defaults(command=_show)


def _workers(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of processes: give 0 or more")
    return int(text)


def _check(arguments: argparse.Namespace) -> None:
    from protoclip.cli.data_check import check_corpus  # noqa: PLC0415 - torch takes seconds

    options = {name: getattr(arguments, name) for name in ("limit", "seed", "workers", "out")}
    check_corpus(arguments.overrides, **options)


def _convert(arguments: argparse.Namespace) -> None:
    from protoclip.cli.data_convert import Selection, convert_corpus  # noqa: PLC0415 - torch takes seconds

    if "=" in str(arguments.out).split("/", maxsplit=1)[0]:
        raise ValueError(f"{arguments.out} is an option, not a folder to write: name one after the options")
    convert_corpus(
        arguments.overrides,
        arguments.out,
        to=arguments.to,
        selection=Selection(arguments.top, arguments.by, arguments.subset, arguments.seed),
        per_shard=arguments.per_shard,
        resize=arguments.resize,
        workers=arguments.workers,
    )


def _show(arguments: argparse.Namespace) -> None:
    from protoclip.cli.data_show import show_pairs  # noqa: PLC0415 - torch takes seconds

    show_pairs(arguments.overrides, arguments.out, pairs=arguments.pairs, draws=arguments.draws)
