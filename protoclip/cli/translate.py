"""From a composed Hydra config to the settings of a LightningCLI file, and back to the option that a value came from.

``_target_`` with its siblings becomes ``class_path`` and ``init_args``; the dicts of callbacks and loggers become
lists; ``${run_dir}`` and the folder of all runs stay open, so that the file can be run into any directory.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, Node, OmegaConf

RUN_DIR = "${run_dir}"
RUNS = "${run.runs}"
PLACES = {"model": "model", "data": "datamodule", "trainer": "trainer"}
"""Sections of a LightningCLI file, and the config keys that they are made of."""


def translate(config: DictConfig) -> dict[str, Any]:
    """The sections ``seed_everything``, ``trainer``, ``model``, ``data`` and ``run`` of a LightningCLI file.

    Args:
        config: composed by Hydra, not resolved.
    """
    runs, config = config.runs, config.copy()
    config.run_dir, config.runs = "\\" + RUN_DIR, "\\" + RUNS
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    sections = {section: translated(plain[key]) for section, key in PLACES.items()}
    for kind in ("callbacks", "logger"):
        sections["trainer"][kind] = [translated(node) for node in plain[kind].values()]
    run = {"name": plain["name"], "method": plain["method"], "runs": runs}
    labels = {"towers": plain["towers"]["name"], "corpus": plain["data"]["name"]}
    return {"seed_everything": plain["seed"], **sections, "run": run | labels | plain["run"]}


def place(settings: Mapping[str, Any], run_dir: str) -> dict[str, Any]:
    """Settings for one run directory."""
    placed = OmegaConf.to_container(OmegaConf.create({**settings, "run_dir": run_dir}), resolve=True)
    assert isinstance(placed, dict)
    return {str(key): value for key, value in placed.items()}


def origin(config: DictConfig, path: Sequence[str]) -> str:
    """The option that a value of a composed config comes from, by following ``${...}``.

    Args:
        config: composed by Hydra, not resolved.
        path: of the value, such as ``("datamodule", "plan", "size")``; gives ``episode.size``.
    """
    node: Any = config
    for place_, part in enumerate(path):
        child = node._get_node(part, validate_access=False) if isinstance(node, DictConfig) else None
        if isinstance(child, Node) and child._is_interpolation():
            text = str(child._value())
            target = text[2:-1]
            if text.count("${") == 1 and text.endswith("}") and ":" not in target:
                return origin(config, [*target.split("."), *path[place_ + 1 :]])
        node = child
    return ".".join(path)


def nodes(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """All values of nested dicts and lists with their paths, those that hold others too."""
    yield path, node
    if isinstance(node, Mapping | list):
        for key, value in node.items() if isinstance(node, Mapping) else enumerate(node):
            yield from nodes(value, (*path, str(key)))


def leaves(node: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The values that hold no others."""
    return ((path, value) for path, value in nodes(node) if not (isinstance(value, Mapping | list) and value))


def translated(node: Any) -> Any:
    """Plain settings with ``class_path`` and ``init_args`` in the place of ``_target_``."""
    if isinstance(node, Mapping):
        plain = {str(key): translated(value) for key, value in node.items() if key != "_target_"}
        return {"class_path": node["_target_"], "init_args": plain} if "_target_" in node else plain
    if isinstance(node, list):
        return [translated(value) for value in node]
    return node


def untranslated(node: Any) -> Any:
    """Settings of a LightningCLI file as a config has them: the inverse of ``translated``."""
    if isinstance(node, Mapping):
        if node.keys() == {"class_path", "init_args"}:
            return {"_target_": node["class_path"], **untranslated(node["init_args"])}
        return {str(key): untranslated(value) for key, value in node.items()}
    if isinstance(node, list):
        return [untranslated(value) for value in node]
    return node
