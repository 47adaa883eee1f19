"""``protoclip teacher``: the features of the chosen teachers for the corpus, encoded once and kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from rich.console import Console

from datamodules.sources import Corpus
from protoclip.caches import Sample
from protoclip.cli.compose import compose_config
from protoclip.cli.corpus import built
from protoclip.cli.keyed_corpus import CorpusPair, corpus_size, keyed_samples
from protoclip.cli.translate import translate
from protoclip.ranges import PositiveInt
from protoclip.teachers import Encoder, TeacherCache
from protoclip.teachers.encode import encode_corpus


@dataclass
class Parts:
    """The parts of ``data`` that encoding needs.

    Attributes:
        train: the corpus.
        teachers: caches by name.
    """

    train: Corpus
    teachers: dict[str, TeacherCache]


@dataclass
class Settings:
    """What ``teacher`` says about encoding.

    Attributes:
        batch_size: captions or pictures that are encoded at once.
    """

    batch_size: PositiveInt


def make_caches(words: Sequence[str]) -> None:
    """Encode the corpus by each teacher of a config; what is finished is left, what was interrupted goes on.

    Args:
        words: Hydra's, such as ``data=scenes teacher=minilm``.

    Raises:
        ValueError: no teacher is chosen, or one cannot be built or written.
    """
    config = compose_config(words)
    if not config.teachers:
        raise ValueError("no teacher is chosen: add teacher=minilm, or several as teacher=[minilm,clip_text]")
    data = translate(config)["data"]
    parts = built(Parts, {name: data[name] for name in ("train", "teachers")}, "data", config)
    settings = built(Settings, {"batch_size": config.teacher.batch_size}, "teacher", config)
    for cache in parts.teachers.values():
        _make_cache(cache, parts.train, settings.batch_size, config.num_workers)


def _make_cache(cache: TeacherCache, source: Corpus, batch_size: int, workers: int) -> None:
    console = Console()
    prepare = partial(_prepared, cache.encoder)
    samples = keyed_samples(source, prepare, f"encoding by {cache.name}", workers, console)
    encoded = encode_corpus(cache, samples, corpus=source.fingerprint, pairs=corpus_size(source), batch_size=batch_size)
    facts = cache.facts
    if not encoded:
        console.print(f"{cache.folder} is finished: nothing to do", soft_wrap=True)
        return
    console.print(
        f"{cache.folder}: {facts['rows']} rows of {facts['pairs']} pairs, {facts['unreadable']} of them unreadable; "
        f"{facts['dim']} of {facts['raw_dim']} dimensions, {facts['explained_variance']:.0%} of the variance",
        soft_wrap=True,
    )


def _prepared(encoder: Encoder, pair: CorpusPair) -> Sample:
    """The captions, or the picture, of a pair."""
    items = pair.captions() if encoder.kind == "text" else [pair.image()]
    return [encoder.prepare(item) for item in items]
