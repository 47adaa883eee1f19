"""What was wrong with an option, in one line, with its name and the nearest one that exists."""

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from inspect import signature
from typing import Any

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError

from protoclip.cli.compose import group_options
from protoclip.cli.translate import PLACES, nodes, origin

_SECTIONS = {
    **PLACES,
    "run": "run",
    "seed_everything": "seed",
    "trainer.callbacks": "callbacks",
    "trainer.logger": "logger",
    "teachers": "teachers",
    "summariser": "summariser",
    "detector": "detector",
}
_CLASSES = {
    "model": "protoclip.module.ImageTextPretraining",
    "datamodule": "datamodules.datamodule.ImageTextDataModule",
    "trainer": "pytorch_lightning.Trainer",
}
"""What the sections that name no class are arguments of."""
FREE = (
    *(f"evaluation.{part}.{kind}" for part in ("validation", "test") for kind in ("pictures", "tasks")),
    *(f"views.{kind}_views" for kind in ("image", "text", "region")),
    *("terms", "heads", "banks", "temperatures", "phases", "teachers", "callbacks", "logger"),
)
"""Dicts whose entries users name."""
_WRAPPING = ("Problem with given", "Does not validate", "Subtypes:", "Errors:", "Type collections.abc", "1 validation")
"""Lines of jsonargparse that lead to the next one."""
FEW = 20
"""Names that are listed where none is near."""
_PLAIN = {"NoneType": "null", "Sequence": "a list", "tuple": "a list", "Mapping": "a dict"}
"""What types are called in YAML."""


def nearest(word: str, known: Iterable[str]) -> str:
    """`` did you mean 'x'?`` with a leading colon, or nothing."""
    found = get_close_matches(word, [name for name in known if name != word], n=1, cutoff=0.5)
    return f": did you mean {found[0]!r}?" if found else ""


def explain(message: str, config: DictConfig) -> str:
    """One line for jsonargparse's many, about the option that the user set.

    Args:
        message: of its ArgumentError.
        config: composed by Hydra, not resolved, that was translated for it.
    """
    keys, reason = _first_branch(message)
    resolved = OmegaConf.to_container(config, resolve=True)
    if required := re.match(r"the following arguments are required: ([\w.]+)", reason):
        path, _ = _locate(resolved, [*keys, required[1]], message)
        return f"{origin(config, path)}: needs a value"
    unknown = re.search(r"(?:Option|accept option) '([^']+)'", reason)
    if unknown:
        keys = [*keys, *re.findall(r"Group '([^']+)'", reason)]
    path, value = _locate(resolved, [*keys, *(unknown[1].split(".") if unknown else [])], message)
    option = origin(config, path)
    if unknown:
        return f"{option}: there is no such option{nearest(path[-1], _siblings(resolved, path))}"
    told = option if isinstance(value, Mapping | list) else f"{option}={'null' if value is None else value}"
    return f"{told}: {_wanted(reason, message)}"


def explain_flag(message: str, known: Iterable[str]) -> str:
    """One line for jsonargparse's many, about an option of its command line.

    Args:
        message: of its ArgumentError.
        known: the options that there are, with their dashes.
    """
    if found := re.search(r"nrecognized arguments: (\S+?)(=|\s|$)", message):
        return f"{found[1]}: there is no such option{nearest(found[1], known)}"
    keys, reason = _first_branch(message)
    return f"--{'.'.join(keys)}: {_wanted(reason, message)}"


def _first_branch(message: str) -> tuple[list[str], str]:
    """The keys down to the first thing that is wrong, and what is."""
    keys: list[str] = []
    for line in message.splitlines():
        text = line.strip().removeprefix("- ")
        found = re.findall(r'Parser key "([^"]+)":', text)
        keys += found
        tail = re.split(r'Parser key "[^"]+":|callable class: ', text)[-1].strip()
        if tail and not tail.startswith(_WRAPPING):
            return keys, tail.split(" Got value: ")[0].rstrip(".")
    return keys, "not valid"


def _wanted(reason: str, message: str) -> str:
    """What would do: pydantic's words for a range, the types of the innermost union, or the reason as it is."""
    if reason.startswith("Input "):
        return reason.split(" [type=", maxsplit=1)[0].removeprefix("Input ")
    names: list[str] = []
    depth = 0
    for line in message.splitlines():
        found = re.search(r"Expected an? (?:<class '([\w.]+)'>|(?:typing\.)?(Literal\[.*?\]))", line)
        indent = len(line) - len(line.lstrip())
        if found and (not names or indent == depth):
            names.append((found[1] or found[2]).rpartition("collections.abc.")[2])
            depth = indent
        elif names:
            break
    kept = sorted({*names} - {"torch.Tensor"}, key=lambda name: (name == "NoneType", name))
    types = " or ".join(_PLAIN.get(name, name) for name in kept)
    if found := re.search(r"module '?([\w.]+)'? has no attribute '(\w+)'", reason):
        return _no_such_name(found[1], found[2])
    return f"expected {types}" if types not in {"", "null"} else reason


def _no_such_name(module: str, name: str) -> str:
    found = get_object(module)
    names = [known for known in getattr(found, "__all__", dir(found)) if not known.startswith("_")]
    near = nearest(name, names) or (f": there is {', '.join(names)}" if len(names) <= FEW else "")
    return f"{module} has no {name}{near}"


def _locate(resolved: Any, keys: Sequence[str], message: str) -> tuple[tuple[str, ...], Any]:
    """The config path that ends in ``keys``; jsonargparse leaves out the names of dict entries."""
    first, *rest = keys
    section = next((name for name in sorted(_SECTIONS, key=len, reverse=True) if _within(first, name)), None)
    if section is None:
        return tuple(".".join(keys).split(".")), None
    start = (*_SECTIONS[section].split("."), *first.removeprefix(section).strip(".").split("."))
    start = tuple(part for part in start if part)
    wanted = [part for key in rest for part in key.split(".")]
    node = resolved
    for part in start:
        node = node.get(part) if isinstance(node, dict) else None
    found = [(path, value) for path, value in nodes(node, start) if _follows(path[len(start) :], wanted)]
    named = [(path, value) for path, value in found if _is_told(value, message)] or found or [((*start, *wanted), node)]
    path, value = named[0]
    inside = [(place, leaf) for place, leaf in nodes(value, path) if _is_told(leaf, message) and leaf is not value]
    return inside[-1] if inside else (path, value)  # jsonargparse does not name the entries of plain dicts and lists


def _is_told(value: Any, message: str) -> bool:
    return re.search(rf"(?:[vV]alue: |input_value='?){re.escape(str(value))}(?:\W|$)", message) is not None


def _within(key: str, section: str) -> bool:
    return key == section or key.startswith(section + ".")


def _follows(path: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether the wanted names come in this order in the path, the last one at its end."""
    if not wanted:
        return True
    steps = iter(path)
    return bool(path) and path[-1] == wanted[-1] and all(name in steps for name in wanted)


def _siblings(resolved: Any, path: Sequence[str]) -> list[str]:
    """Arguments of the class that the option at a path is set of."""
    node = resolved
    for part in path[:-1]:
        node = node[int(part)] if isinstance(node, list) else node.get(part, {})
    target = _CLASSES.get(".".join(path[:-1])) or (node.get("_target_") if isinstance(node, dict) else None)
    return list(signature(get_object(target)).parameters) if target else list(node)


def explain_interpolation(error: InterpolationKeyError) -> str:
    """One line for OmegaConf's several, about an option that takes its value from one that there is not.

    Args:
        error: while resolving.
    """
    wanted = str(error).split("'")[1]
    mend = "give it a value of its own"
    if "prototype" in wanted.split("."):  # of teachers, whose terms stand on those of method=protoclip
        mend = "choose method=protoclip, method=teacher or method=distillation, or leave teacher out by teacher=[]"
    return f"{error.full_key} takes the value of {wanted}, which there is not: {mend}"


def explain_hydra(error: HydraException, known: Iterable[str]) -> str:
    """One line for Hydra's several.

    Args:
        error: while composing.
        known: names of the options that there are.
    """
    text = " ".join((str(error) or str(error.__cause__)).split())
    missing = error.missing_cfg_file if isinstance(error, MissingConfigException) else None
    group, _, option = (missing or "").rpartition("/")
    found_by_hydra = error.options if isinstance(error, MissingConfigException) else None  # none of a list's options
    if options := found_by_hydra or (group_options(group) if group else None):
        return f"{group}={option}: there is {', '.join(options)}{nearest(option, options)}"
    if isinstance(error, OverrideParseException):
        return f"cannot read {error.override!r}: write option=value, with quotes around brackets, commas and spaces"
    return _composition(text, known)


def _composition(text: str, known: Iterable[str]) -> str:
    """What is wrong with a word that adds, changes or removes an option."""
    if found := re.search(r"already at '.+?'.* remove \+ prefix: '(.+?)' Or add", text):
        return f"{found[1]} is there already: leave the + out"
    if found := re.search(r"Could not (?:override|delete from config\.) '([^']+)'", text):
        word = found[1].split("=")[0].lstrip("+~").split("@")[0]
        if "append to your config" in text and _may_be_added(word):
            return f"{word}: there is no such option yet: put a + before it to add it"
        return f"{word}: there is no such option{nearest(word, known)}"
    if text.startswith("Ambiguous value"):
        return text.partition(" 1. ")[0] + ": add -m for a sweep, or brackets for a list"
    return text


def _may_be_added(option: str) -> bool:
    """Whether an option is an entry of a dict, or an argument of a class that the defaults leave out."""
    parent, _, name = option.rpartition(".")
    return parent in FREE or (parent in _CLASSES and name in signature(get_object(_CLASSES[parent])).parameters)
