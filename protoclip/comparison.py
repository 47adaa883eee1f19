"""What ``protoclip compare`` compares, as ``conf/compare/*.yaml`` say it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from protoclip.reports.claims import Claim


@dataclass(frozen=True)
class Arm:
    """One line of a comparison.

    Attributes:
        title: printed instead of its key.
        overrides: Hydra words.
        seeds: its own, None for those of the comparison.
        cost_of: key of an earlier arm; this one trains for as long as that one took.
    """

    title: str | None = None
    overrides: list[str] = field(default_factory=list)
    seeds: list[int] | None = None
    cost_of: str | None = None


@dataclass(frozen=True)
class Comparison:
    """Arms and what is told of them.

    Attributes:
        name: folder of the report below ``runs/compare``.
        seeds: of every arm that has none of its own.
        arms: by key; the others are compared with the first.
        columns: ``task/metric``, see ``comparison_table``.
        pictures: labelled set of the t-SNE.
        prototypes_of: key of the gallery's arm.
        claims: judged under the table, those of the arms that are there.
    """

    name: str
    seeds: list[int]
    arms: dict[str, Arm]
    columns: list[str]
    pictures: str
    prototypes_of: str | None = None
    claims: list[Claim] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.arms:
            raise ValueError("compare.arms is empty: give two arms or more")
        earlier: list[str] = []
        for key, arm in self.arms.items():
            if not self.seeds_of(key):
                raise ValueError(f"compare.arms.{key} has no seeds: give some, or leave it out by ~compare.arms.{key}")
            if arm.cost_of is not None and arm.cost_of not in earlier:
                raise ValueError(
                    f"compare.arms.{key}.cost_of names {arm.cost_of!r}: list that arm before this one, "
                    f"or leave this one out by ~compare.arms.{key}"
                )
            earlier.append(key)

    @property
    def titles(self) -> Mapping[str, str]:
        """What rows and tables call the arms, by key."""
        return {key: arm.title or key for key, arm in self.arms.items()}

    @property
    def jobs(self) -> list[tuple[str, int]]:
        """Arm and seed of every run, all arms of a seed together: a comparison that is stopped has paired seeds."""
        seeds = dict.fromkeys(seed for key in self.arms for seed in self.seeds_of(key))
        return [(key, seed) for seed in seeds for key in self.arms if seed in self.seeds_of(key)]

    @property
    def judged(self) -> list[Claim]:
        """The claims of which both arms are there."""
        return [claim for claim in self.claims if {claim.arm, claim.against} <= self.arms.keys()]

    def seeds_of(self, key: str) -> list[int]:
        """Seeds of an arm."""
        seeds = self.arms[key].seeds
        return self.seeds if seeds is None else seeds

    def measured_by(self, key: str) -> set[str]:
        """The arms whose cost decides how long an arm is."""
        costly = self.arms[key].cost_of
        return set() if costly is None else {next(iter(self.arms)), costly}
