"""Objects from settings in jsonargparse's form, ``{class_path: ..., init_args: ...}``, with their types checked."""

from argparse import ArgumentError
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, TypeVar

from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from protoclip.messages import raised_in

T = TypeVar("T")


def instantiate(cls: type[T], settings: Mapping[str, Any], key: str) -> T:
    """Check settings against the signature of a class, and of all classes that they name, and make one.

    Args:
        cls: the class.
        settings: its arguments, plain containers.
        key: what messages call the settings.

    Raises:
        SettingsError: an argument that the class does not take, or a value of another type.
    """
    parser, parsed = check(cls, settings, key)
    with first_cause():
        made = parser.instantiate(parsed)[key]
    assert isinstance(made, cls)
    return made


@contextmanager
def first_cause() -> Iterator[None]:
    """Raise what a constructor raised, without the layers that jsonargparse wraps around it for optional arguments."""
    try:
        yield
    except ValueError as error:
        cause: BaseException = error
        while raised_in(cause).startswith("jsonargparse") and cause.__cause__ is not None:
            cause = cause.__cause__
        raise cause from cause.__cause__


@contextmanager
def nulls_told_apart() -> Iterator[None]:
    """Let a parser tell a null that was given from an argument that was not: it lets pass the latter, whatever type."""
    set_parsing_settings(unset_sentinel=True)
    try:
        yield
    finally:
        set_parsing_settings(unset_sentinel=False)


@nulls_told_apart()
def check(cls: type, settings: Mapping[str, Any], key: str) -> tuple[ArgumentParser, Namespace]:
    """The check alone; returns what ``instantiate`` goes on with."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, key, fail_untyped=False)
    try:
        return parser, parser.parse_object({key: deepcopy(dict(settings))})  # it writes into them
    except ArgumentError as error:
        raise SettingsError(str(error)) from error


class SettingsError(ValueError):
    """Settings that do not fit the signature of their class; the message is jsonargparse's, of several lines."""
