"""Configs by Hydra words, for the commands that are not Hydra apps themselves."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from protoclip.cli.resolvers import register
from protoclip.cli.translate import leaves

CONFIGS = "conf"
SEARCHPATH = "hydra.searchpath"
"""Option of further folders of configs, such as a user's own sets."""
register()


def compose_config(words: Sequence[str]) -> DictConfig:
    """The config of ``group=option`` and ``key=value`` words, not resolved.

    Raises:
        ValueError: the evaluation has a set already, or a folder of configs is not there.
    """
    refuse_missing_folders(words)
    with initialize_config_module(CONFIGS, version_base="1.3"):
        config = compose("config", overrides=list(words))
        refuse_doubled_sets(words)
    return config


def refuse_missing_folders(words: Sequence[str]) -> None:
    """Refuse folders of configs that are not there, of which Hydra only warns.

    Args:
        words: of a command line.

    Raises:
        ValueError: with the first of them.
    """
    parsed = OverridesParser.create().parse_overrides([word for word in words if word.startswith(f"{SEARCHPATH}=")])
    for word in parsed:
        places: Any = word.value()
        for place in places if isinstance(places, list) else ():  # Hydra refuses what is no list
            if not str(place).startswith("pkg://") and not Path(str(place).removeprefix("file://")).is_dir():
                raise ValueError(f"{SEARCHPATH}: no folder {place}: check the path")


def refuse_doubled_sets(words: Sequence[str]) -> None:
    """Refuse a set whose names the evaluation has too: merged, the options of both would be neither's.

    Args:
        words: of a config that composes, where Hydra is initialised.

    Raises:
        ValueError: with the names of both.
    """
    parsed = OverridesParser.create().parse_overrides(list(words))
    chosen: Any = next((word.value() for word in reversed(parsed) if word.key_or_group == "set"), None)
    if not chosen:
        return
    sets = [chosen] if isinstance(chosen, str) else chosen
    # options of the evaluation may be those of a set, and decide no name
    others = [word for word in parsed if word.key_or_group != "set" and not word.key_or_group.startswith("evaluation.")]
    config = compose("config", overrides=[str(word.input_line) for word in others], return_hydra_config=True)
    own = _names(config)
    places = [str(word.input_line) for word in parsed if word.key_or_group == SEARCHPATH]
    if doubled := [str(name) for name in sets if own & _names(compose(overrides=[f"+set={name}", *places]))]:
        raise ValueError(
            f"evaluation={config.hydra.runtime.choices.evaluation} has {', '.join(doubled)} already: "
            f"leave it out of set=, or choose evaluation=none"
        )


def _names(config: DictConfig) -> set[str]:
    """Of the pictures and tasks of the test."""
    return {str(name) for part in ("pictures", "tasks") for name in config.evaluation.test.get(part) or ()}


def known_options() -> list[str]:
    """Names of the groups and of all options of the default config."""
    paths = [path for path, _ in leaves(OmegaConf.to_container(compose_config([]), resolve=False))]
    return sorted({".".join(path[:depth]) for path in paths for depth in range(1, len(path) + 1)})


def group_options(group: str) -> list[str]:
    """Names of the options of a group; none of a group that there is not."""
    with initialize_config_module(CONFIGS, version_base="1.3"):
        return GlobalHydra.instance().config_loader().get_group_options(group)


def chosen_option(words: Sequence[str], group: str) -> str:
    """The option of a group that ``group=option`` words choose, or an experiment, or the defaults."""
    with initialize_config_module(CONFIGS, version_base="1.3"):
        choices = compose("config", overrides=list(words), return_hydra_config=True).hydra.runtime.choices
    return str(choices[group])
