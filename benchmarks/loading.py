"""Photos from shards to batches on two workers, beside open_clip's own loader on the same shards.

Both crop 50 to 100 % of the area to 224 pixels by bicubic resizing, normalise, and tokenise by open_clip's tokenizer;
they read their shards in turn, pass for pass. The photos are made of octaves of noise, and as large as those of Flickr.
The row's details say what a sample of ours costs in one process, in microseconds.
"""

import io
import tarfile
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import open_clip
import torch
from open_clip_train import data as open_clip_data  # type: ignore[import-untyped]
from torch.utils.data import default_collate
from webdataset.tariterators import tar_file_expander

from benchmarks.measure import Measured, arguments, interleaved, seconds, write
from benchmarks.photos import photo
from benchmarks.runs import TOY, composed
from datamodules import datasets
from datamodules.datamodule import ImageTextDataModule
from datamodules.episodes import SampleKey
from protoclip.cli.build import build_datamodule

TARGET = 1 / 1.3
CAPTION = "a brown dog runs over the wet grass towards the camera, number {}"
SHARDS = 4


def write_shards(folder: Path, *, pairs: int, photos: int, size: tuple[int, int]) -> float:
    """Shards of so many pairs, some photos more than once; returns the mean kilobytes of a photo."""
    files = [photo(seed, *size) for seed in range(photos)]
    for shard in range(SHARDS):
        with tarfile.open(folder / f"photos-{shard:03d}.tar", "w") as tar:
            for number in range(shard, pairs, SHARDS):
                for extension, data in (("jpg", files[number % photos]), ("txt", CAPTION.format(number).encode())):
                    member = tarfile.TarInfo(f"{number:06d}.{extension}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return fmean(map(len, files)) / 1000


def peer_loader(shards: str, *, pairs: int, batch_size: int, image_size: int, context: int, workers: int) -> Any:
    """What open_clip trains from."""
    options = {"train_data": shards, "train_num_samples": pairs, "batch_size": batch_size, "workers": workers}
    settings = Namespace(**options, train_data_upsampling_factors=None, dataset_resampled=False, seed=0, world_size=1)
    transform = open_clip.image_transform(image_size, is_train=True, aug_cfg={"scale": (0.5, 1.0)})
    tokenizer = open_clip.SimpleTokenizer(context_length=context)
    # open_clip does not know the marks that webdataset puts behind each shard since 0.2.90
    open_clip_data.tar_file_expander = partial(tar_file_expander, eof_value=None)
    return open_clip_data.get_wds_dataset(settings, transform, is_train=True, tokenizer=tokenizer).dataloader


def read_all(loader: Iterable[Any], *, samples: int) -> None:
    """A pass, which has to be whole."""
    found = sum(len(batch["image"] if isinstance(batch, dict) else batch[0]) for batch in loader)
    assert found == samples, f"{found} of {samples} samples"


def stages(datamodule: ImageTextDataModule, *, samples: int, batch_size: int) -> dict[str, float]:
    """Microseconds of a sample's parts, in this process; the view of a picture includes its normalisation."""
    dataset, source = datamodule.dataset, datamodule.train
    transform, batch = dataset.image_views["image"], [dataset[SampleKey(0, 0, 0, 0, "train")]] * batch_size

    def each(work: Callable[[int], object]) -> float:
        return 1e6 * median(seconds(partial(work, index)) for index in range(samples))

    return {
        "us_read_and_decode": each(source.image),
        "us_read_captions": each(source.captions),
        "us_view": 1e6 * median(seconds(partial(transform, source.image(index))) for index in range(samples)),
        "us_tokenise": each(lambda index: datamodule.tokenize([CAPTION.format(index)])),
        "us_sample": each(lambda index: dataset[SampleKey(index, index, 0, 0, "train")]),
        "us_collate": 1e6 * median(seconds(partial(default_collate, batch)) for _ in range(10)) / batch_size,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure both loaders."""
    options = arguments(__doc__, argv)
    quick = options.quick
    pairs, batch_size, workers, repeats = (32, 4, 0, 1) if quick else (1024, 64, 2, 7)
    size = (64, 48) if quick else (500, 375)
    towers = TOY if quick else ("towers=vit_b_32",)
    # The ids of larger corpora are not kept, and the peer keeps none.
    with TemporaryDirectory() as folder, patch.object(datasets, "PAIRS_KEPT", 0):
        kilobytes = write_shards(Path(folder), pairs=pairs, photos=min(pairs, 128), size=size)
        shards = f"{folder}/photos-{{000..{SHARDS - 1:03d}}}.tar"
        words = ("method=clip", "data=shards", f"data.path='{shards}'", f"+data.train.cache_dir={folder}", "views=crop")
        words += (*towers, f"batch_size={batch_size}", f"episode.size={pairs}", f"num_workers={workers}")
        config = composed(*words, runs=folder)
        datamodule = build_datamodule(config)
        image_size, context = config.towers.image_size, config.towers.context_length
        loader = peer_loader(
            shards, pairs=pairs, batch_size=batch_size, image_size=image_size, context=context, workers=workers
        )
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as in a worker
        details = stages(datamodule, samples=min(pairs, 100), batch_size=batch_size)
        torch.set_num_threads(threads)
        ours, theirs = interleaved(
            partial(read_all, datamodule.train_dataloader(), samples=pairs),
            partial(read_all, loader, samples=pairs),
            repeats=repeats,
        )
    details |= {"samples_per_second": pairs / median(ours), "peer_samples_per_second": pairs / median(theirs)}
    write(
        Measured(
            name="loading",
            seconds=ours,
            peer=f"open_clip_train {open_clip.__version__}, get_wds_dataset",
            peer_seconds=theirs,
            target=TARGET,
            sizes={
                "pairs": pairs,
                "pixels": list(size),
                "kilobytes": kilobytes,
                "image_size": image_size,
                "batch_size": batch_size,
                "workers": workers,
            },
            details=details,
        ),
        options.results,
    )


if __name__ == "__main__":
    main()
