"""``protoclip teacher`` in process: caches of a manifest by text and image teachers, and mistakes in one line."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from datamodules.manifests import ManifestPairs
from protoclip.cli import main
from protoclip.cli.compose import compose_config
from protoclip.cli.teacher import Parts
from protoclip.cli.translate import translate
from protoclip.instantiate import instantiate
from protoclip.teachers import TeacherCache, TimmImage, TransformersText
from tests.tiny_bert import save_tiny_bert

CONF = Path(__file__).parents[3] / "conf"
CAPTIONS = {"a.png": ["a red dog", "the dog"], "gone.png": ["a cat"], "b.png": ["blue sky", "the tree in grass", "a"]}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a tiny BERT."""
    return save_tiny_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pairs, one of them without its picture."""
    folder = tmp_path_factory.mktemp("pairs")
    for number, name in enumerate(("a.png", "b.png")):
        Image.effect_mandelbrot((64, 64), (-2, -1.5, 1 - number, 1.5), 100).convert("RGB").save(folder / name)
    rows = [f"{name}\t{caption}" for name, captions in CAPTIONS.items() for caption in captions]
    (folder / "pairs.tsv").write_text("\n".join(["filepath\ttitle", *rows]), encoding="utf-8")
    return folder / "pairs.tsv"


def words(manifest: Path, bert: str, cache: Path, *more: str) -> list[str]:
    data = ["data=manifest", f"data.path={manifest}", "teacher=minilm", f"teacher.cache={cache}"]
    return ["teacher", *data, "teacher.device=cpu", f"teachers.minilm.encoder.model={bert}", *more]


def test_a_text_teacher_encodes_every_caption_of_a_manifest(
    manifest: Path, bert: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(manifest, bert, tmp_path, "teachers.minilm.dims=null")) == 0
    folder = tmp_path / "manifest" / "minilm"
    told = capsys.readouterr().out
    assert f"{folder}: 6 rows of 3 pairs, 0 of them unreadable; 24 of 24 dimensions, 100% of the variance\n" in told
    cache = TeacherCache(str(folder), name="minilm", encoder=TransformersText(bert))
    cache.check(ManifestPairs(manifest).fingerprint)
    rows = cache.rows([2, 0, 1], [1, 0, 0])
    expected = TransformersText(bert)(["the tree in grass", "a red dog", "a cat"])
    torch.testing.assert_close(rows, expected, atol=1e-5, rtol=0)
    assert main(words(manifest, bert, tmp_path, "teachers.minilm.dims=null")) == 0
    assert capsys.readouterr().out == f"{folder} is finished: nothing to do\n"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The file of a tiny model of timm."""
    import timm

    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("timm") / "weights.pt"
    torch.save(timm.create_model("test_vit", num_classes=3).state_dict(), file)
    return str(file)


def dino(weights: str) -> tuple[str, ...]:
    return ("teachers.dino.encoder.name=test_vit", f"teachers.dino.encoder.pretrained={weights}")


def test_several_teachers_of_both_kinds(manifest: Path, bert: str, weights: str, tmp_path: Path) -> None:
    more = ("teacher=[minilm,dino]", *dino(weights), "teachers.dino.dims=2", "teachers.minilm.dims=4", "num_workers=1")
    command = [word for word in words(manifest, bert, tmp_path, *more) if word != "teacher=minilm"]
    assert main(command) == 0
    text = TeacherCache(str(tmp_path / "manifest/minilm"), name="minilm", encoder=TransformersText(bert), dims=4)
    assert (text.dim, text.facts["rows"]) == (4, 6)
    encoder = TimmImage("test_vit", pretrained=weights)
    pictures = TeacherCache(str(tmp_path / "manifest/dino"), name="dino", encoder=encoder, dims=2)
    assert (pictures.dim, pictures.facts["rows"], pictures.facts["unreadable"]) == (2, 3, 1)
    rows = pictures.rows([0, 1, 2], [1, 0, 2])
    assert rows.any(1).tolist() == [True, False, True]


def test_workers_prepare_the_pictures_with_the_same_result(
    manifest: Path, bert: str, weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, prepare = [0], TimmImage.prepare

    def counted(encoder: TimmImage, item: Any) -> Any:
        here[0] += 1
        return prepare(encoder, item)

    monkeypatch.setattr(TimmImage, "prepare", counted)
    bytes_of, calls = [], []
    for workers in (0, 1):
        cache, here[0] = tmp_path / str(workers), 0
        more = (*dino(weights), "teachers.dino.dims=2", f"num_workers={workers}")
        image = [word for word in words(manifest, bert, cache, *more) if "minilm" not in word]
        assert main([*image, "teacher=dino"]) == 0
        bytes_of.append((cache / "manifest/dino/features.npy").read_bytes())
        calls.append(here[0])
    assert bytes_of[0] == bytes_of[1]
    assert calls == [3, 1]  # an example for the width, and two pictures that can be read


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "teacher").glob("*.yaml")))
def test_every_teacher_of_the_config_tree_is_built_without_its_model(name: str) -> None:
    config = compose_config([f"teacher={name}", "teacher.device=cpu"])
    assert list(config.teachers) == [name] == [config.teachers[name].name]
    data = translate(config)["data"]
    cache = instantiate(Parts, {key: data[key] for key in ("train", "teachers")}, "data").teachers[name]
    assert cache.folder == f"teachers/scenes/{name}"
    assert (cache.encoder.device, cache.encoder._network) == ("cpu", None)
    assert json.dumps(cache.encoder.describe())
    assert cache.dims == 64


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("teacher=[]", "no teacher is chosen: add teacher=minilm"),
        ("teacher=nobody", "teacher=nobody: there is clip_image, clip_text, dino, minilm, roberta_large"),
        ("teachers.minilm=7", "teachers.minilm"),
        ("teachers.minilm.encoder.pooling=avg", "teachers.minilm.encoder.pooling=avg: expected Literal['mean'"),
        ("+teachers.minilm.dim=3", "teachers.minilm.dim: there is no such option: did you mean 'dims'?"),
        ("teachers.minilm.dims=0", "teachers.minilm.dims=0: should be greater than or equal to 1"),
        ("teachers.minilm.dims=25", "teachers.minilm.dims=25: the model has 24: set that or less, or null"),
        ("teachers.minilm.encoder.device=nowhere", "torch has no device 'nowhere' here: set teacher.device=auto"),
        ("data.path=nowhere.tsv", "no file matches nowhere.tsv"),
        ("data.train.caption_key=text", "has no column 'text'"),
        ("teachers.minilm.encoder.model=package:no_such", "pip install no-such"),
    ],
)
def test_mistakes_are_told_in_one_line(
    word: str, told: str, manifest: Path, bert: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    option = word.split("=", maxsplit=1)[0]
    command = ["teacher", *(other for other in words(manifest, bert, tmp_path)[1:] if not other.startswith(option))]
    assert main([*command, word]) == 2
    error = capsys.readouterr().err.splitlines()
    assert told in error[-1]
    assert len([line for line in error if line.startswith("error: ")]) == 1
    assert not list(tmp_path.iterdir())
