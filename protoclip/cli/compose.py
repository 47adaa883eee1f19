"""Configs by Hydra words, for the commands that are not Hydra apps themselves."""

from collections.abc import Sequence

from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf

from protoclip.cli.resolvers import register
from protoclip.cli.translate import leaves

CONFIGS = "conf"
register()


def compose_config(words: Sequence[str]) -> DictConfig:
    """The config of ``group=option`` and ``key=value`` words, not resolved."""
    with initialize_config_module(CONFIGS, version_base="1.3"):
        return compose("config", overrides=list(words))


def known_options() -> list[str]:
    """Names of the groups and of all options of the default config."""
    paths = [path for path, _ in leaves(OmegaConf.to_container(compose_config([]), resolve=False))]
    return sorted({".".join(path[:depth]) for path in paths for depth in range(1, len(path) + 1)})


def chosen_option(words: Sequence[str], group: str) -> str:
    """The option of a group that ``group=option`` words choose, or an experiment, or the defaults."""
    with initialize_config_module(CONFIGS, version_base="1.3"):
        choices = compose("config", overrides=list(words), return_hydra_config=True).hydra.runtime.choices
    return str(choices[group])
