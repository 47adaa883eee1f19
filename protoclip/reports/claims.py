"""Claims about a comparison, and what its rows say of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from protoclip.ranges import NonNegativeFloat
from protoclip.reports.paired import Difference, column_samples, group_rows, paired_difference
from protoclip.reports.rows import Row
from protoclip.reports.tables import decimals, difference_text, markdown_lines

LEAST_SEEDS = 3
HEADER = ("claim", "metric", "seeds", "difference [95 % interval]", "verdict")


@dataclass(frozen=True)
class Claim:
    """That an arm is better than another one in a column whose higher values are better.

    Attributes:
        claim: in words.
        arm: key of the arm that is claimed to be better.
        against: key of the other one.
        column: ``task/metric``, such as ``scenes_linear_probe/top1``.
        margin: the least mean difference that counts.
    """

    claim: str
    arm: str
    against: str
    column: str
    margin: NonNegativeFloat = 0.0


@dataclass(frozen=True)
class Judgement:
    """A claim and the paired differences that speak of it, None where no seed has both arms."""

    claim: Claim
    difference: Difference | None

    @property
    def verdict(self) -> str:
        """``confirmed``, ``not confirmed`` or ``not decidable here``.

        A claim is confirmed if the 95 % interval of its difference lies above zero and the mean reaches the margin. It
        is not confirmed if the interval lies below the margin, or holds zero although its half-width is within the
        margin, so that a difference of the margin would have been seen; everything else, and fewer than three seeds,
        is not decidable here.
        """
        difference, margin = self.difference, self.claim.margin
        if difference is None or difference.interval is None or difference.count < LEAST_SEEDS:
            return "not decidable here"
        low, high = difference.interval
        if low > 0 and difference.mean >= margin:
            return "confirmed"
        seen_well = low <= 0 and (high - low) / 2 <= margin
        return "not confirmed" if high < margin or seen_well else "not decidable here"


def judge(claims: Sequence[Claim], rows: Sequence[Row], titles: Mapping[str, str]) -> list[Judgement]:
    """Judge claims by rows, each over the seeds that both of its arms have.

    Args:
        claims: see ``Claim``.
        rows: of a comparison.
        titles: what the rows call the arms, by key.

    Raises:
        ValueError: there are no rows, or none has a value of a claim's column.
    """
    groups = group_rows(rows)
    judgements = []
    for claim in claims:
        samples = column_samples(groups, claim.column)
        first, second = (samples.get((titles[key],), {}) for key in (claim.arm, claim.against))
        judgements.append(Judgement(claim, paired_difference(first, second)))
    return judgements


def claims_markdown(judgements: Sequence[Judgement]) -> str:
    """Render as a Markdown table."""
    return markdown_lines([HEADER, ("---", "---", "---:", "---:", "---"), *map(_cells, judgements)])


def print_claims(judgements: Sequence[Judgement], console: Console) -> None:
    """Print to a rich console."""
    view = Table(*HEADER)
    for judgement in judgements:
        view.add_row(*map(escape, _cells(judgement)))
    console.print(view)


def _cells(judgement: Judgement) -> tuple[str, ...]:
    claim, difference = judgement.claim, judgement.difference
    metric = f"{claim.column} (margin {claim.margin:g})" if claim.margin else claim.column
    if difference is None:
        return claim.claim, metric, "0", "-", judgement.verdict
    text = difference_text(difference, decimals(claim.column), interval=True)
    return claim.claim, metric, str(difference.count), text, judgement.verdict
