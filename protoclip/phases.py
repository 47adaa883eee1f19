"""Phases of a run in which some terms have other weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from protoclip.ranges import NonNegativeInt


@dataclass(frozen=True)
class Phase:
    """Episodes of a run with weights of their own: its first ones, its last ones, or those in between.

    Attributes:
        first_episodes: how many episodes from the start; None for all.
        weights: weight by term name, instead of the term's own.
        from_episode: those of them, counted from 0, that come before the phase.
    """

    first_episodes: NonNegativeInt | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    from_episode: NonNegativeInt = 0

    def active(self, episode: int) -> bool:
        """Whether an episode belongs to the phase."""
        return self.from_episode <= episode and (self.first_episodes is None or episode < self.first_episodes)


def term_weights(weights: Mapping[str, float], phases: Mapping[str, Phase], episode: int) -> dict[str, float]:
    """Weights of an episode: the terms' own, overridden by every active phase in order."""
    result = dict(weights)
    for phase in phases.values():
        if phase.active(episode):
            result.update(phase.weights)
    return result


def check_phases(weights: Mapping[str, float], phases: Mapping[str, Phase]) -> None:
    """Refuse phases that name no term, or in which nothing is trained.

    Raises:
        ValueError: with the option to change.
    """
    if not any(weights.values()):
        raise ValueError("every term has weight 0: give one of terms.*.weight a value")
    for name, phase in phases.items():
        if unknown := set(phase.weights) - set(weights):
            raise ValueError(f"phases.{name}.weights names no term: {', '.join(sorted(unknown))}")
        ends = [phase.from_episode, *([] if phase.first_episodes is None else [phase.first_episodes - 1])]
        if any(phase.active(end) and not any(term_weights(weights, phases, end).values()) for end in ends):
            raise ValueError(f"phases.{name} leaves no term with a weight: set phases.{name}.first_episodes=0")
