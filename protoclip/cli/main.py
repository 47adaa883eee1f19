"""``protoclip COMMAND ...``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from protoclip.cli.collector import no_collection
from protoclip.cli.data import add_data_commands
from protoclip.cli.errors import exit_code

STAGES = {
    "fit": "train, from the last finished episode on",
    "validate": "run the validation tasks on a run's last checkpoint, or on ckpt=FILE",
    "test": "run the test tasks on it and keep their rows",
    "predict": "write the features of the test sets",
}
"""Commands that are LightningCLI's: Hydra words, then its own options."""


class _Parser(argparse.ArgumentParser):
    """Tells a mistake like all others, in one line."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: words after the program's name, ``sys.argv`` by default.

    Returns:
        Exit code: 0, or 2 after a mistake that the user can mend, told in one line.
    """
    program = sys.argv
    if argv is not None:  # Lightning runs this line again in each process that it starts
        sys.argv = [str(Path(sys.executable).with_name("protoclip")), *argv]
    try:
        return exit_code(lambda: _run(sys.argv[1:]))
    finally:
        sys.argv = program


def _run(words: Sequence[str]) -> None:
    if words and words[0] in STAGES:
        with no_collection():
            import open_clip  # noqa: F401, PLC0415 - takes seconds, and every stage makes towers

            from protoclip.cli.lightning import run_stage  # noqa: PLC0415 - torch and Lightning take seconds

        run_stage(words)
    else:
        arguments = _parser().parse_args(words)
        arguments.command(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="protoclip", description="Image-text pretraining, compared fairly.", allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for stage, purpose in STAGES.items():
        commands.add_parser(stage, help=purpose)
    command = commands.add_parser("compare", help="run the arms of a comparison, print one table, write figures")
    command.add_argument("overrides", nargs="*", help="Hydra words, such as experiment=demo compare.seeds=[0,1,2]")
    command.set_defaults(command=_compare)
    command = commands.add_parser("teacher", help="encode the corpus by external teachers, once, for training to read")
    command.add_argument("overrides", nargs="*", help="Hydra words, such as data=scenes teacher=minilm")
    command.set_defaults(command=_teacher)
    command = commands.add_parser("summarise", help="shorten the caption of each pair, once, for training to read")
    command.add_argument("overrides", nargs="*", help="Hydra words, such as data=scenes summariser=t5")
    command.set_defaults(command=_summarise)
    command = commands.add_parser("regions", help="detect the regions of each picture, once, for training to read")
    command.add_argument("overrides", nargs="*", help="Hydra words, such as data=scenes detector=fasterrcnn_resnet50")
    command.set_defaults(command=_regions)
    command = commands.add_parser(
        "report", help="finished runs on one page: table, curves, embeddings, prototypes, cost"
    )
    command.add_argument("runs", nargs="+", type=Path, help="run directories, or folders of a comparison")
    command.add_argument("--out", type=Path, default=Path("report.html"), help="the page; tables are written beside it")
    command.add_argument("--pictures", help="labelled set of t-SNE and confusion matrices")
    command.add_argument(
        "--projector", action="store_true", help="write the embeddings for TensorBoard's projector too"
    )
    command.set_defaults(command=_report)
    command = commands.add_parser("runs", help="list runs with their state and main figures")
    command.add_argument("folder", nargs="?", type=Path, default=Path("runs"))
    command.set_defaults(command=_runs)
    command = commands.add_parser("table", help="write the tables of a Markdown file anew from their rows")
    command.add_argument("file", type=Path)
    command.set_defaults(command=_table)
    command = commands.add_parser("export", help="write a run's model as a folder that open_clip loads")
    command.add_argument("source", type=Path, metavar="RUN", help="a run directory, or a file in its checkpoints")
    command.add_argument("folder", type=Path)
    command.set_defaults(command=_export)
    command = commands.add_parser("import", help="check weights of open_clip and write a folder to train from")
    command.add_argument("source", help="a folder, hf-hub:ID, or a file or tag of --model")
    command.add_argument("folder", type=Path)
    command.add_argument("--model", help="open_clip's name of the model, such as RN50-quickgelu")
    command.set_defaults(command=_import)
    add_data_commands(commands)
    return parser


def _compare(arguments: argparse.Namespace) -> None:
    with no_collection():
        from protoclip.cli.compare import compare  # noqa: PLC0415 - torch and Lightning take seconds

    compare(arguments.overrides)


def _teacher(arguments: argparse.Namespace) -> None:
    with no_collection():
        from protoclip.cli.teacher import make_caches  # noqa: PLC0415 - torch and Lightning take seconds

    make_caches(arguments.overrides)


def _summarise(arguments: argparse.Namespace) -> None:
    with no_collection():
        from protoclip.cli.summarise import summarise  # noqa: PLC0415 - torch and Lightning take seconds

    summarise(arguments.overrides)


def _regions(arguments: argparse.Namespace) -> None:
    with no_collection():
        from protoclip.cli.regions import detect_regions  # noqa: PLC0415 - torch and Lightning take seconds

    detect_regions(arguments.overrides)


def _report(arguments: argparse.Namespace) -> None:
    with no_collection():
        from protoclip.cli.report import report  # noqa: PLC0415 - torch and matplotlib take seconds

    report(arguments.runs, arguments.out, pictures=arguments.pictures, projector=arguments.projector)


def _runs(arguments: argparse.Namespace) -> None:
    from protoclip.cli.listing import list_runs  # noqa: PLC0415

    list_runs(arguments.folder)


def _export(arguments: argparse.Namespace) -> None:
    with no_collection():
        from protoclip.cli.export import export  # noqa: PLC0415 - torch and Lightning take seconds

    export(arguments.source, arguments.folder)


def _import(arguments: argparse.Namespace) -> None:
    with no_collection():
        from protoclip.cli.import_ import import_weights  # noqa: PLC0415 - torch takes seconds

    import_weights(arguments.source, arguments.folder, arguments.model)


def _table(arguments: argparse.Namespace) -> None:
    from protoclip.files import replacing  # noqa: PLC0415
    from protoclip.reports.blocks import render_blocks  # noqa: PLC0415

    if not arguments.file.is_file():
        raise ValueError(f"no file {arguments.file}: give a Markdown file with table blocks")
    text = arguments.file.read_text(encoding="utf-8")
    rendered = render_blocks(text, arguments.file.parent)
    with replacing(arguments.file) as file:
        file.write(rendered.encode())
