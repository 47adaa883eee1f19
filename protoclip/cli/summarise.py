"""``protoclip summarise``: a summary of the first caption of each pair, made once and kept."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console

from datamodules.summary_cache import SummaryCache, make_summaries
from protoclip.caches import Sample
from protoclip.cli.compose import compose_config
from protoclip.cli.corpus import section, training_corpus
from protoclip.cli.keyed_corpus import CorpusPair, corpus_size, keyed_samples
from protoclip.ranges import PositiveInt
from protoclip.summarisers import Summariser


@dataclass
class Settings:
    """What ``summariser`` says.

    Attributes:
        name: of the summariser.
        folder: of the summaries.
        batch_size: captions that are summarised at once.
        model: what shortens.
        rows: what training reads.
    """

    name: str
    folder: str
    batch_size: PositiveInt
    model: Summariser
    rows: SummaryCache


def summarise(words: Sequence[str]) -> None:
    """Summarise the corpus of a config; what is finished is left, what was interrupted goes on.

    Args:
        words: Hydra's, such as ``data=scenes summariser=t5``.

    Raises:
        ValueError: no summariser is chosen, or it cannot be built, or its summaries cannot be written.
    """
    config = compose_config(words)
    if "summariser" not in config:
        raise ValueError("no summariser is chosen: add summariser=t5, or summariser=lead")
    settings = section(Settings, "summariser", config)
    source = training_corpus(config)
    console = Console()
    samples = keyed_samples(source, _caption, f"summarising by {settings.name}", config.num_workers, console)
    made = make_summaries(
        settings.folder,
        settings.model,
        samples,
        corpus=source.fingerprint,
        pairs=corpus_size(source),
        batch_size=settings.batch_size,
    )
    if not made:
        console.print(f"{settings.folder} is finished: nothing to do", soft_wrap=True)
        return
    facts = settings.rows.facts
    told = f"{facts['pairs']} summaries, {facts['unreadable']} of them empty: their captions cannot be read"
    console.print(f"{settings.folder}: {told}", soft_wrap=True)


def _caption(pair: CorpusPair) -> Sample:
    """The first caption of a pair."""
    return [pair.captions()[0]]
