"""The parts that a sum of terms is made of: the terms that count, and the heads, temperatures and banks they name."""

import copy
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import chain
from typing import TypeVar

from torch import nn

from protoclip.phases import Phase, check_phases
from protoclip.terms import Term

TOWER_OUTPUTS = ("pooled", "embedding", "features", "tokens", "token_mask")
WIDTHS = {"pooled": "pooled_dim", "embedding": "embed_dim", "tokens": "token_dim"}
"""A tower's attribute that is the width of an output."""
M = TypeVar("M", bound=nn.Module)


def used_terms(terms: Mapping[str, Term], phases: Mapping[str, Phase]) -> dict[str, Term]:
    """The terms with a weight, of their own or in some phase.

    Raises:
        ValueError: no term has one, see ``check_phases``.
    """
    weights = {name: term.weight for name, term in terms.items()}
    check_phases(weights, phases)
    given = [weights, *(phase.weights for phase in phases.values())]
    return {name: term for name, term in terms.items() if any(weights.get(name) for weights in given)}


def check_parts(terms: Mapping[str, Term], **parts: Mapping[str, object]) -> None:
    """Refuse terms that name a head, temperature or bank that there is not, and heads named as an output is.

    Args:
        terms: by name.
        parts: ``heads``, ``temperatures`` and ``banks``, each by name.

    Raises:
        ValueError: with the part that is missing, or the name that is taken.
    """
    if taken := set(parts["heads"]).intersection(TOWER_OUTPUTS):
        name = min(taken)
        raise ValueError(f"heads.{name} would hide an output of the towers; give the head another name than {name}")
    for name, term in terms.items():
        outputs = {key.output for key in term.required}.union(term.heads) - set(TOWER_OUTPUTS)
        wanted = {"heads": outputs, "temperatures": set(term.temperatures), "banks": set(term.banks)}
        for kind, names in wanted.items():
            if missing := names - set(parts[kind]):
                raise ValueError(f"term {name} needs {kind}.{', '.join(sorted(missing))}, which is not configured")


def named_parts(parts: Mapping[str, M], names: Iterable[Iterable[str]]) -> dict[str, M]:
    """The parts that somebody names, in their order."""
    named = set(chain.from_iterable(names))
    return {name: part for name, part in parts.items() if name in named}


def build_heads(
    heads: Mapping[str, Callable[[int], nn.Module]], towers: nn.Module, asked: Collection[tuple[str, str]]
) -> nn.ModuleDict:
    """One head per name and tower that some term asks for, those of equal widths from the same initial weights.

    Args:
        heads: by name, a function from the width of what the head reads: an output of a tower, its embedding unless
            the head's class names another as ``reads``.
        towers: with the towers ``image`` and ``text``.
        asked: names of heads with a tower each.
    """
    result = nn.ModuleDict()
    for name, build in heads.items():
        names = sorted({tower for head, tower in asked if head == name}, reverse=True)
        width = WIDTHS[reads(build)]
        widths = {tower: int(getattr(getattr(towers, tower), width)) for tower in names}
        pair: dict[str, nn.Module] = {}
        for tower, size in widths.items():
            twin = next((other for other in pair if widths[other] == size), None)
            pair[tower] = copy.deepcopy(pair[twin]) if twin else build(size)
        result[name] = nn.ModuleDict(pair)
    return result


def reads(head: object) -> str:
    """The tower's output that a head, or what builds it, works on."""
    # jsonargparse hands over the class as an argument of the function that it binds
    parts = (head, getattr(head, "func", None), *getattr(head, "args", ()))
    return next((str(part.reads) for part in parts if hasattr(part, "reads")), "embedding")
