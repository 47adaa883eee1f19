"""``protoclip fit|validate|test|predict``: a LightningCLI whose defaults are composed from Hydra words.

``protoclip fit method=clip data=scenes --trainer.max_epochs 3``: words before the first dash are Hydra's, all after it
is LightningCLI's. ``protoclip fit --config FILE --run_dir DIR`` repeats the run that wrote FILE into DIR.
"""

from argparse import ArgumentError, ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import file_digest
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Trainer
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

from datamodules.datamodule import ImageTextDataModule
from protoclip.cli.build import RunSettings, check_settings, find_run, on_this_machine, run_length, trainer_mistakes
from protoclip.cli.compose import compose_config
from protoclip.cli.evaluated import compose_evaluation
from protoclip.cli.experiment import Experiment, quiet
from protoclip.cli.explain import explain_flag
from protoclip.cli.translate import leaves, place
from protoclip.instantiate import SettingsError, first_cause, instantiate
from protoclip.module import ImageTextPretraining
from protoclip.runs import SETTINGS, Run

EARLIER = {"seed_everything": "seed", "run.name": "name", "run.runs": "runs"}
"""Flags of what has gone into other settings, or into the directory, when LightningCLI reads them."""
FREE = (
    *("run", "ckpt_path", "weights_only", "verbose", "data.num_workers", "trainer.max_epochs", "trainer.logger"),
    *("trainer.accelerator", "trainer.devices", "trainer.strategy", "trainer.plugins", "trainer.enable_progress_bar"),
)
"""Beginnings of what a run may go on with other values of."""
PARSER = {"exit_on_error": False, "allow_abbrev": False}


class ImageTextCLI(LightningCLI):
    """Parses, finds the run directory, builds and runs one stage.

    Args:
        stage: one of ``protoclip.cli.main.STAGES``.
        settings: of a LightningCLI file, ``${run_dir}`` left open.
        flags: what LightningCLI reads on top of them.
        config: that the settings were translated from; None where they come of a file.
        run_dir: where to run; None to name it by the hash of what decides the result.
    """

    def __init__(
        self,
        stage: str,
        settings: dict[str, Any],
        flags: Sequence[str],
        *,
        config: DictConfig | None,
        run_dir: str | None,
    ) -> None:
        self.stage = stage
        self.settings = settings
        self.flags = list(flags)
        self.hydra = config
        self.run_dir = run_dir
        super().__init__(
            ImageTextPretraining,
            ImageTextDataModule,
            args=[],
            seed_everything_default=0,
            save_config_callback=None,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            parser_kwargs=PARSER | {stage: PARSER},
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The stage alone: to describe the options of all four takes seconds."""
        return {self.stage: LightningCLI.subcommands()[self.stage]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """What a run is besides trainer, model and data."""
        parser.add_class_arguments(RunSettings, "run")
        parser.add_argument("--run_dir", type=str | None, help="run into this directory")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, with the run directory that the parsed settings lead to."""
        try:
            checked = self.hydra is not None and not self.flags and self.run_dir is None
            parsed = self.settings if checked else self._parse(parser, self.settings)
            self._check_flags(parsed)
            self.datamodule = datamodule = instantiate(ImageTextDataModule, parsed["data"], "data")
            ckpt = parsed.pop("ckpt_path", None)
            self.ckpt = None if ckpt is None else _existing(ckpt)
            self.run = self._find_run(parser, parsed, datamodule)
            self._check_directory(parser, parsed)
            if self.flags:
                self.settings = parsed
            if self.settings["trainer"].get("max_epochs") is None:
                self.settings["trainer"]["max_epochs"] = run_length(parsed["run"], datamodule)
            settings = on_this_machine(place(self.settings, str(self.run.path)))
            self.config = parser.parse_args([self.stage, "--config", yaml.safe_dump(settings, sort_keys=False)])
        except (ArgumentError, SettingsError) as error:
            known = (name for action in self._parser(self.stage)._actions for name in action.option_strings)
            raise ValueError(explain_flag(str(error), known)) from error

    def _check_flags(self, parsed: Mapping[str, Any]) -> None:
        """Refuse flags for what is decided before them.

        Raises:
            ValueError: with the words to give.
        """
        if self.stage == "fit" and parsed.get("ckpt_path") is not None:
            raise ValueError("ckpt is for protoclip validate, test and predict: leave it out to train")
        for flag, word in EARLIER.items():
            section, _, key = flag.partition(".")
            given, here = (of[section][key] if key else of[section] for of in (parsed, self.settings))
            if given != here:
                raise ValueError(f"--{flag} comes too late: give {word}={given} before the first dash")

    def _check_directory(self, parser: LightningArgumentParser, parsed: Mapping[str, Any]) -> None:
        """Refuse to go on with another run.

        Raises:
            ValueError: with what differs.
        """
        file = self.run.path / SETTINGS
        if self.run_dir is None or not file.exists():
            return
        held = dict(leaves(self._parse(parser, yaml.safe_load(file.read_text(encoding="utf-8")), flags=False)))
        for path, value in leaves(parsed):
            name = ".".join(path)
            if held.get(path) != value and not name.startswith(FREE):
                told = f"{name} is {held.get(path)} there and {value} here"
                raise ValueError(f"{self.run.path} holds another run ({told}): give another --run_dir")

    def instantiate_classes(self) -> None:
        """Build the parts but for the data, which are there; a mistake is told as its constructor tells it."""
        datamodule = self.datamodule
        del self.config[self.stage]["data"]
        self.parser.add_instantiator(lambda *_, **__: datamodule, ImageTextDataModule, prepend=True)
        with first_cause():
            super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer."""
        with trainer_mistakes():
            return super().instantiate_trainer(**kwargs)

    def _parse(
        self, parser: LightningArgumentParser, settings: dict[str, Any], *, flags: bool = True
    ) -> dict[str, Any]:
        words = [self.stage, "--config", yaml.safe_dump(settings, sort_keys=False), *(self.flags if flags else ())]
        parsed = parser.parse_args(words)[self.stage]
        stage_parser = self._subcommand_parsers[self.stage]
        plain: dict[str, Any] = yaml.safe_load(stage_parser.dump(parsed, skip_unset=False, skip_validation=True))
        return plain

    def _find_run(
        self, parser: LightningArgumentParser, parsed: dict[str, Any], datamodule: ImageTextDataModule
    ) -> Run:
        if self.run_dir is not None:
            return Run(Path(self.run_dir), Path(self.run_dir).name)
        assert self.hydra is not None
        changed: dict[str, Any] = {}
        if self.flags:
            plain = dict(leaves(self._parse(parser, self.settings, flags=False)))
            changed = {".".join(path): value for path, value in leaves(parsed) if plain.get(path) != value}
        if self.ckpt is not None:
            with self.ckpt.open("rb") as file:
                changed["ckpt"] = file_digest(file, "sha256").hexdigest()
        return find_run(self.hydra, datamodule, changed)

    def fit(self, **_: Any) -> None:
        """Train, from the last finished episode on."""
        with self._experiment() as experiment:
            experiment.fit()

    def validate(self, **_: Any) -> None:
        """Run the validation tasks."""
        with self._experiment() as experiment:
            experiment.validate(self.ckpt)

    def test(self, **_: Any) -> None:
        """Run the test tasks and keep their rows."""
        with self._experiment() as experiment:
            experiment.test(self.ckpt)

    def predict(self, **_: Any) -> None:
        """Write the features of the test sets."""
        with self._experiment() as experiment:
            experiment.predict(self.ckpt)

    @contextmanager
    def _experiment(self) -> Iterator[Experiment]:
        """The parts of the run, which no other process writes during the body."""
        resolved = None
        if self.hydra is not None:
            resolved = OmegaConf.to_yaml(self.hydra, resolve=True)
        experiment = Experiment(self.run, self.model, self.datamodule, self.trainer, self.settings, resolved)
        with self.run.lock():
            yield experiment


def run_stage(argv: Sequence[str]) -> None:
    """Run one stage.

    Args:
        argv: the stage, Hydra words, then what LightningCLI reads.

    Raises:
        ValueError: words that do not fit together.
    """
    quiet()
    stage, *rest = argv
    first = next((place for place, word in enumerate(rest) if word.startswith("-")), len(rest))
    words, flags = rest[:first], rest[first:]
    own = ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("-c", "--config")
    own.add_argument("--run_dir")
    options, flags = own.parse_known_args(flags)
    if options.config is None:
        config = compose_config(words) if stage == "fit" else compose_evaluation(words)
        settings = check_settings(config)
        if config.ckpt is not None:
            flags += ["--ckpt_path", str(config.ckpt)]
        ImageTextCLI(stage, settings, flags, config=config, run_dir=options.run_dir)
    else:
        if words or options.run_dir is None:
            raise ValueError("--config FILE repeats a run into a directory: give --run_dir DIR, and no words before it")
        try:
            loaded = yaml.safe_load(_existing(options.config).read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError):
            loaded = None
        if not isinstance(loaded, dict) or "model" not in loaded:
            raise ValueError(f"{options.config} is no LightningCLI file: give the lightning.yaml of a run")
        ImageTextCLI(stage, loaded, flags, config=None, run_dir=options.run_dir)


def _existing(path: str) -> Path:
    if not Path(path).is_file():
        raise ValueError(f"no file {path}: check the path")
    return Path(path)
