"""``protoclip regions`` in process."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.manifests import ManifestPairs
from datamodules.region_cache import RegionCache
from datamodules.shards import ShardPairs
from protoclip.caches import key_number
from protoclip.cli import main
from protoclip.cli.build import build_datamodule
from protoclip.cli.compose import compose_config
from protoclip.cli.corpus import section
from protoclip.cli.regions import Settings
from tests.conftest import Compose
from tests.streams import streamed, write_corpus

CONF = Path(__file__).parents[3] / "conf"
MODEL = [f"detector.model.{word}" for word in ("weights=null", "image_size=64", "min_score=0", "boxes=4", "device=cpu")]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pairs of different sizes, one of them without its picture."""
    folder = tmp_path_factory.mktemp("pairs")
    for number, name in enumerate(("a.png", "b.png")):
        size = (64 + 32 * number, 48)
        Image.effect_mandelbrot(size, (-2, -1.5, 1 - number, 1.5), 100).convert("RGB").save(folder / name)
    rows = [f"{name}\tcaption" for name in ("a.png", "gone.png", "b.png")]
    (folder / "pairs.tsv").write_text("\n".join(["filepath\ttitle", *rows]), encoding="utf-8")
    return folder / "pairs.tsv"


def test_the_regions_of_each_picture_of_a_manifest(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    words = ["regions", "data=manifest", f"data.path={manifest}", "detector=fasterrcnn_mobilenet", *MODEL]
    words.append(f"detector.folder={tmp_path}")
    assert main(words) == 0
    told = "8 regions of 1028 dimensions in 3 pictures; 1 have none, 1 of those are unreadable"
    assert capsys.readouterr().out == f"{tmp_path}: {told}\n"
    assert "untrained" in caplog.text
    source = ManifestPairs(manifest)
    cache = RegionCache(str(tmp_path))
    cache.check(source.fingerprint)
    assert cache.facts["detector"]["weights"] == "untrained"
    assert not cache.row(1).any()
    detector = section(Settings, "detector", compose_config(words[1:])).model
    expected = detector([np.asarray(source.image(index)) for index in (0, 2)])
    for row, index in zip(expected, (0, 2), strict=True):
        np.testing.assert_allclose(cache.row(index), row, atol=1e-5)
    assert main(words) == 0
    assert capsys.readouterr().out == f"{tmp_path} is finished: nothing to do\n"
    assert main([*words, "detector.model.min_score=0.5"]) == 2
    told = "is made with detector.min_score=0.0 instead of 0.5: choose another folder by detector.folder=DIR"
    assert told in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("made_of", ["stream", "shards"])
def test_a_stream_finds_its_regions_by_key(compose_tiny: Compose, tmp_path: Path, made_of: str) -> None:
    pattern = write_corpus(tmp_path / "corpus", pairs=6, shards=3, broken=(4,))
    chosen = ["detector=fasterrcnn_mobilenet", *MODEL, f"detector.folder={tmp_path}/regions"]
    lanes = ["data.train.lanes=3"] if made_of == "stream" else []
    assert main(["regions", f"data={made_of}", f"data.path='{pattern}'", *lanes, *chosen]) == 0
    words = ("episode.size=5", "batch_size=5", *streamed(pattern, "data.max_faults=0.5", lanes=1))
    datamodule = build_datamodule(compose_tiny("pyramidclip", *words, *chosen))
    datamodule.require({"regions": "image"})
    places = ShardPairs(pattern, cache_dir=tmp_path / "index")
    readable = {key_number(places.key(index)): index for index in range(6) if index != 4}
    rows = np.load(tmp_path / "regions" / "regions.npy")  # in the order of the pairs
    assert len({row.tobytes() for row in rows}) == 6
    (batch,) = datamodule.train_dataloader()
    assert sorted(batch["index"].tolist()) == sorted(readable)
    for number, regions in zip(batch["index"].tolist(), batch["regions"].numpy(), strict=True):
        assert np.array_equal(regions[:4], rows[readable[number]])
        assert not regions[4:].any()


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "detector").glob("*.yaml")))
def test_every_detector_of_the_config_tree_is_one_of_torchvision(name: str) -> None:
    from torchvision.models import get_model_weights

    settings = section(Settings, "detector", compose_config([f"detector={name}"]))
    assert (settings.name, settings.folder) == (name, f"regions/scenes/{name}")
    known = get_model_weights(settings.model.name).__members__
    assert settings.model.weights is None if name == "untrained" else settings.model.weights in known
    assert json.dumps(settings.model.describe())


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("seed=1", "no detector is chosen: add detector=fasterrcnn_resnet50, or another"),
        ("detector.model.boxes=0", "detector.model.boxes=0: should be greater than or equal to 1"),
        ("detector.model.min_score=2", "detector.model.min_score=2: should be less than or equal to 1"),
        ("detector.model.weights=COCO", "detector.model.weights=COCO: there is no such file, and torchvision has"),
        ("+detector.model.size=3", "detector.model.size: there is no such option"),
    ],
)
def test_mistakes_are_told_in_one_line(
    word: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    chosen = [] if word == "seed=1" else ["detector=fasterrcnn_mobilenet"]
    assert main(["regions", "data=scenes", "data.num_pairs=2", *chosen, word]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    assert error[0].startswith(f"error: {told}")
    assert not list(tmp_path.iterdir())
