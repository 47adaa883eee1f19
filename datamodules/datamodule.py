"""The LightningDataModule: episodes of training pairs, and the picture sets of validation and test."""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.ahead import AheadLoader
from datamodules.datasets import BatchShare, EpisodeDataset, EvaluationDataset, collate_evaluation
from datamodules.episodes import EpisodePlan, EpisodeSampler, local_batch_size
from datamodules.faults import FaultCounter
from datamodules.locations import cache_folder
from datamodules.missing import MissingSet
from datamodules.region_view import Regions
from datamodules.sources import CURSOR_WIDTH, Corpus, FaultKind, PairSource, PairStream, Pictures, placed
from datamodules.stream_loader import Batch, Pass, StreamLoader, StreamParts, Ties, check_lanes
from datamodules.text_views import TextView
from datamodules.token_cache import TokenCache
from datamodules.views import MEAN, STD, Interpolation, PictureTransform, ResizeMode, evaluation_transform
from protoclip.distributed import gather
from protoclip.module import ImageTextPretraining
from protoclip.ranges import NonNegativeInt, PositiveInt, Share
from protoclip.teachers import TeacherCache

logger = logging.getLogger(__name__)

Loader = DataLoader[dict[str, Tensor]]


class ImageTextDataModule(pl.LightningDataModule):
    """Batches for training, prototype extraction, validation and test.

    Args:
        train: corpus of pairs, or a stream of them.
        plan: from the corpus' size, None of a stream, and its strata to its episodes.
        image_views: for each image view a function ``(image_size, *, mean, std)`` that gives its transform.
        text_views: what makes each text view.
        tokenize: captions to ids.
        batch_size: pairs of a training batch, over all processes.
        image_size: side of the towers' input.
        mean: normalisation of the channels.
        std: normalisation of the channels.
        interpolation: of the pictures of validation and test.
        resize_mode: likewise, see ``evaluation_transform``.
        validation: picture sets by name, looked at during fit.
        test: picture sets by name, looked at afterwards.
        evaluation_batch_size: pictures of a batch without gradient.
        num_workers: loader processes.
        prefetch: batches that each of them makes ahead.
        seed: of episodes, captions and augmentations.
        max_faults: largest share of an episode's samples that may be replaced because they cannot be read.
        teachers: caches of external teachers' features by name.
        region_views: what makes each view of a picture's regions.
        keep_tokens: whether the ids of a manifest's captions are kept in the cache folder.

    All views are made until ``require`` says which are read.

    Attributes:
        done: what tells the numbers of a test set's batches that nobody needs anew; none, until it is set.
        missing: picture sets that are not on the disk, and so in neither ``validation`` nor ``test``: why, by name.

    Raises:
        ValueError: what does not fit together, such as the cache of another corpus.
    """

    def __init__(
        self,
        train: Corpus,
        plan: Callable[..., EpisodePlan],
        *,
        image_views: Mapping[str, Callable[..., PictureTransform]],
        text_views: Mapping[str, TextView],
        tokenize: Callable[..., Any],
        batch_size: PositiveInt,
        image_size: PositiveInt,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
        interpolation: Interpolation = "bicubic",
        resize_mode: ResizeMode = "shortest",
        validation: Mapping[str, Pictures] | None = None,
        test: Mapping[str, Pictures] | None = None,
        evaluation_batch_size: PositiveInt = 256,
        num_workers: NonNegativeInt = 0,
        prefetch: PositiveInt = 2,
        seed: int = 0,
        max_faults: Share = 0.1,
        teachers: Mapping[str, TeacherCache] | None = None,
        region_views: Mapping[str, Regions] | None = None,
        keep_tokens: bool = True,
    ) -> None:
        super().__init__()
        self.corpus = train
        self.stream = train if isinstance(train, PairStream) else None
        self.plan = plan(len(train), strata=train.strata) if isinstance(train, PairSource) else plan(None)
        EpisodeSampler(self.plan, purpose="train", batch_size=batch_size)  # refuses what does not fit, before training
        self.teachers = dict(teachers or {})
        for cache in self.teachers.values():
            cache.serve(placed(train))
        self.tokenize = tokenize
        self.batch_size = batch_size
        self.missing: dict[str, str] = {}
        self.validation = self._found(validation or {})
        self.test = self._found(test or {})
        self.evaluation_batch_size = evaluation_batch_size
        self.num_workers = num_workers
        self.prefetch = prefetch
        pixels: dict[str, Any] = {"mean": mean, "std": std, "interpolation": interpolation, "resize_mode": resize_mode}
        self.evaluation_transform = evaluation_transform(image_size, **pixels)
        self._pixels = {"image_size": image_size, **pixels}
        self.dataset = EpisodeDataset(
            train,
            image_views={name: build(image_size, mean=mean, std=std) for name, build in image_views.items()},
            text_views=text_views,
            tokenize=tokenize,
            seed=seed,
            region_views=region_views,
            teachers=self.teachers,
            tokens=_token_cache(train, tokenize) if keep_tokens else None,
        )
        self.done: Callable[[str], Collection[int]] = nothing
        self._faults = FaultCounter(train, max_faults)
        self._next_episode = 0
        self._to_extract = self.plan.size
        self._begins: dict[int, Tensor] = {}  # where the lanes of the current block begin, and of the next one
        self._ties: Ties | None = None

    def _found(self, sets: Mapping[str, Pictures]) -> dict[str, Pictures]:
        """The sets that are there; of the others it is told once what to put where."""
        missing = {name: pictures.reason for name, pictures in sets.items() if isinstance(pictures, MissingSet)}
        for name in dict.fromkeys(pictures.name for pictures in sets.values() if isinstance(pictures, MissingSet)):
            parts = [part for part, found in sets.items() if isinstance(found, MissingSet) and found.name == name]
            logger.warning("missing and left out: %s: %s", ", ".join(parts), missing[parts[0]])
        self.missing |= missing
        return {name: pictures for name, pictures in sets.items() if name not in missing}

    @property
    def train(self) -> PairSource:
        """The corpus, where it is not a stream."""
        assert isinstance(self.corpus, PairSource)
        return self.corpus

    def setup(self, stage: str) -> None:
        """Make the views that the module's terms read, and no others."""
        if stage == "fit":
            assert self.trainer is not None
            module = self.trainer.lightning_module
            assert isinstance(module, ImageTextPretraining)
            self.require(module.required_views)

    def require(self, views: Mapping[str, str]) -> None:
        """Make these views alone from now on.

        Args:
            views: by name, the tower that reads it.

        Raises:
            ValueError: one that is not configured, or that the corpus cannot give.
        """
        pictures = [*self.dataset.image_views, *self.dataset.region_views]
        made = {"image": pictures, "text": [*self.dataset.text_views]}
        for view, tower in views.items():
            if view not in made[tower]:
                raise ValueError(
                    f"the method reads the {tower} view {view!r}, and views makes {', '.join(sorted(made[tower]))}: "
                    f"choose other views, or bind the term to one of these"
                )
        self.dataset = self.dataset.only(views)

    @property
    def rows(self) -> dict[str, Any]:
        """What is kept beside the corpus, summaries or regions, by the view that is made of it."""
        views = {**self.dataset.text_views, **self.dataset.region_views}
        return {name: rows for name, view in views.items() if (rows := getattr(view, "rows", None)) is not None}

    def train_dataloader(self) -> Loader | StreamLoader:
        """This process' part of whole batches in random order; the sampler goes from episode to episode by itself."""
        rank, world = self._place
        if self.stream is not None:
            of = Pass("train", self.plan, local_batch_size(self.batch_size, world), rank, world)
            return self._stream_loader(self.stream, self.dataset, of, self._next_episode)
        sampler = EpisodeSampler(
            self.plan,
            purpose="train",
            batch_size=self.batch_size,
            episode=self._next_episode,
            rank=rank,
            world=world,
        )
        return self._loader(self.dataset, sampler=sampler, batch_size=local_batch_size(self.batch_size, world))

    def extraction_dataloader(
        self, episode: int, positions: np.ndarray | None = None, views: Collection[str] | None = None
    ) -> Loader | StreamLoader:
        """This process' pairs of an episode by position, under another draw of the training augmentation.

        Args:
            episode: number of the episode.
            positions: places in the episode, in order; None for all.
            views: to make; None for those of the training.
        """
        rank, world = self._place
        batch_size = min(self.evaluation_batch_size, self.plan.size)
        sampler = EpisodeSampler(
            self.plan, purpose="extract", batch_size=batch_size, episode=episode, rank=rank, world=world
        )
        sampler.chosen = positions
        self._to_extract = self.plan.size if positions is None else len(positions)
        dataset = self.dataset if views is None else self.dataset.only(views)
        if self.stream is not None:
            return self._stream_loader(
                self.stream, dataset, Pass("extract", self.plan, batch_size, rank, world), episode, persistent=False
            )
        # Lightning ends the workers of its own loaders with the run; these end with each pass
        return self._loader(dataset, sampler=sampler, batch_size=batch_size, persistent=False)

    @property
    def common_extraction_batches(self) -> int:
        """Batches of the last extraction that every process has; those with a pair more may have one more."""
        smallest = self._to_extract // self._place[1]
        return -(-smallest // min(self.evaluation_batch_size, self.plan.size))

    def val_dataloader(self) -> list[Loader]:
        """One loader per picture set of the validation, in order."""
        return [self.evaluation_dataloader(pictures) for pictures in self.validation.values()]

    def test_dataloader(self) -> list[Loader]:
        """One loader per picture set of the test, in order, without the batches that are ``done``."""
        return [self.evaluation_dataloader(pictures, self.done(name)) for name, pictures in self.test.items()]

    def evaluation_dataloader(self, pictures: Pictures, done: Collection[int] = frozenset()) -> Loader:
        """This process' batches of a set, with captions or labels, but for those of these numbers."""
        dataset = EvaluationDataset(pictures, transform=self.evaluation_transform, tokenize=self.tokenize)
        share = BatchShare(len(dataset), self.evaluation_batch_size, *self._place, done=done)
        return AheadLoader(
            dataset, batch_sampler=share, collate_fn=collate_evaluation, **self._loading(persistent=True)
        )

    @property
    def evaluation_inputs(self) -> dict[str, Any]:
        """What pixels and ids of validation and test depend on, beside the pictures and captions."""
        tokenizer = self.tokenize
        named = {name: getattr(tokenizer, name, None) for name in ("context_length", "hf_name", "options")}
        identity = getattr(tokenizer, "identity", None) or getattr(tokenizer, "vocabulary_hash", None)
        return {"pixels": self._pixels, "ids": {**named, "identity": identity}}

    @property
    def _place(self) -> tuple[int, int]:
        """Rank and number of the trainer's processes; without a trainer everything is this process'."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _loader(self, dataset: Any, *, persistent: bool = True, **options: Any) -> Loader:
        return DataLoader(dataset, **self._loading(persistent), **options)

    def _loading(self, persistent: bool) -> dict[str, Any]:
        """How batches are made: by workers that stay, ahead, and where they go to a GPU in memory that it reads."""
        workers = self.num_workers
        device = self.trainer.strategy.root_device if self.trainer else None
        return {
            "num_workers": workers,
            "persistent_workers": persistent and workers > 0,
            "prefetch_factor": self.prefetch if workers else None,
            "pin_memory": isinstance(device, torch.device) and device.type == "cuda",
        }

    def _stream_loader(
        self, stream: PairStream, dataset: EpisodeDataset, of: Pass, episode: int, *, persistent: bool = True
    ) -> StreamLoader:
        return StreamLoader(
            StreamParts(stream, dataset, of),
            episode=episode,
            begin=self._begin,
            see=self._faults.see_faults,
            finish=self._finish_pass,
            **self._loading(persistent),
        )

    def _begin(self, episode: int) -> Tensor:
        """Where the lanes of an episode begin [lanes, sources, 4].

        Raises:
            ValueError: the block before was not read to its end.
        """
        assert self.stream is not None
        block = self.plan.block(episode)
        if block == 0:
            return torch.zeros(self.stream.lanes, self.stream.sources, CURSOR_WIDTH, dtype=torch.int64)
        if block not in self._begins:
            raise ValueError(
                "a stream is read episode by episode, each to its end: leave trainer.limit_train_batches out"
            )
        return self._begins[block]

    def _finish_pass(self, of: Pass, episode: int, ends: Mapping[int, Tensor], facts: Batch) -> None:
        """Remember where the next block begins, and what the extraction saw; rank 0, which saves it, of all."""
        block = self.plan.block(episode)
        shares = gather((dict(ends), facts)) or [(dict(ends), facts)]
        begin = self._begin(episode)
        following = begin.clone()
        for lanes, _ in shares:
            for lane, cursor in lanes.items():
                following[lane] = cursor
        self._begins = {block: begin, block + 1: following}
        if of.purpose == "extract":
            self._ties = Ties(block, {name: torch.cat([seen[name] for _, seen in shares]) for name in facts})

    def check_processes(self, world: int) -> None:
        """Refuse a number of processes, or of workers of each, that batches or lanes cannot be divided by.

        Raises:
            ValueError: with the option to set.
        """
        local_batch_size(self.batch_size, world)
        if self.stream is not None:
            check_lanes(self.stream.lanes, world, self.num_workers)

    @property
    def faults(self) -> dict[FaultKind, int]:
        """How many samples were replaced so far, or passed over by a stream, by what was wrong with them."""
        return dict(self._faults.counts)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Count the replaced samples of a batch; the one data hook that both passes and no worker go through."""
        if "replaced" in batch:  # evaluation replaces nothing
            assert self.trainer is not None
            self._faults.see(batch, self.plan.size / self.trainer.world_size)
            if "place" in batch and self._ties is not None and self._ties.block == int(batch["block"][0]):
                batch = {**batch, "position": self._ties.positions(batch)}
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def state_dict(self) -> dict[str, Any]:
        """The episode to go on with: a checkpoint is written at the end of an episode, before Lightning counts it."""
        assert self.trainer is not None
        episode = self.trainer.current_epoch + 1
        state: dict[str, Any] = {"next_episode": episode, "faults": self._faults.state_dict()}
        if self.stream is not None:
            state["begins"] = self._begins
            if self._ties is not None and self._ties.block == self.plan.block(episode):
                state["ties"] = {"block": self._ties.block, "facts": self._ties.facts}
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Start at the checkpoint's next episode: Lightning builds the first iterator before any hook could say so."""
        self._next_episode = state_dict["next_episode"]
        if "faults" in state_dict:  # checkpoints of earlier versions have none
            self._faults.load_state_dict(state_dict["faults"])
        if self.stream is not None:
            self._begins = dict(state_dict["begins"])
            self._ties = Ties(**state_dict["ties"]) if "ties" in state_dict else None


def nothing(name: str) -> Collection[int]:
    """No batch of a set is done."""
    return ()


def _token_cache(corpus: Corpus, tokenize: Any) -> TokenCache | None:
    """Where the ids of captions are kept, if these have rows, and a tokenizer that never changes makes them."""
    captions = corpus.caption_count if isinstance(corpus, PairSource) else None
    identity = getattr(tokenize, "identity", None)
    if captions is None or identity is None:
        return None
    length, vocabulary = tokenize.context_length, tokenize.vocab_size
    return TokenCache(cache_folder(), corpus.fingerprint, identity, captions, length, vocabulary)
