"""Stored features are those that were encoded, whatever happens in between."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from protoclip.evaluation.feature_store import FeatureStore, StoredOutputs, model_identity, read_features
from protoclip.towers import create_towers

SIZE, BATCH, DIM = 10, 4, 6
NAMES = ("a", "b", "c")
IDENTITY = {"model": "m", "pixels": {"mean": (0.5, 0.25)}}
OWNERS = np.repeat(np.arange(SIZE), [2, 1, 3, 1, 1, 2, 1, 1, 1, 4])

Batch = dict[str, NDArray[Any]]


def store(folder: Path, outputs: tuple[str, ...] = (), **identity: Any) -> FeatureStore:
    return FeatureStore(folder / "set", IDENTITY | identity, outputs, SIZE, BATCH)


def batches(seed: int = 0, outputs: tuple[str, ...] = ()) -> Iterator[Batch]:
    generator = np.random.default_rng(seed)
    for start in range(0, SIZE, BATCH):
        index = np.arange(start, min(start + BATCH, SIZE))
        batch: Batch = {"index": index, "label": index % 3, "owner": OWNERS[np.isin(OWNERS, index)]}
        for tower, rows in (("image", len(index)), ("text", len(batch["owner"]))):
            embedding = torch.from_numpy(generator.standard_normal((rows, DIM), dtype=np.float32))
            batch |= {f"{tower}/embedding": embedding.numpy(), f"{tower}/features": F.normalize(embedding).numpy()}
            batch |= {f"{tower}/{name}": generator.standard_normal((rows, 2, 3)) for name in outputs}
        yield batch


def column(name: str, **options: Any) -> Tensor:
    return torch.from_numpy(np.concatenate([batch[name] for batch in batches(**options)]))


def stored(folder: Path, **options: Any) -> FeatureStore:
    made = store(folder, options.get("outputs", ()))
    made.begin()
    for batch in batches(**options):
        made.write(batch)
    made.finish()
    return made


def files(folder: Path) -> Mapping[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_read_is_what_was_encoded(tmp_path: Path) -> None:
    found = read_features(stored(tmp_path, outputs=("words",)).folder)
    assert torch.equal(found.labels, column("label", outputs=("words",)))
    assert torch.equal(found.owner, torch.from_numpy(OWNERS))
    assert {*found.image} == {*found.text} == {"embedding", "features", "words"}
    for name in ("embedding", "features", "words"):
        assert torch.equal(found.image[name], column(f"image/{name}", outputs=("words",)))
        assert torch.equal(found.text[name], column(f"text/{name}", outputs=("words",)))
    assert found.class_features is None
    assert found.prompts_hash is None


def test_features_are_not_kept_beside_the_embeddings_that_they_follow_from(tmp_path: Path) -> None:
    folder = stored(tmp_path).folder
    names = {path.stem for path in folder.glob("*.npy")}
    assert names == {"image_embedding", "text_embedding", "labels", "owner"}
    image = read_features(folder).image
    assert image["features"] is image["features"]
    assert len(image) == 2
    assert "features" not in StoredOutputs({"words": torch.ones(1)})
    with pytest.raises(KeyError):
        image["pooled"]


def test_arrays_are_mapped_and_do_not_change_with_what_is_done_to_them(tmp_path: Path) -> None:
    folder = stored(tmp_path).folder
    before = files(folder)
    read_features(folder).image["embedding"].zero_()
    assert files(folder) == before
    assert isinstance(np.load(folder / "image_embedding.npy", mmap_mode="r"), np.memmap)


@pytest.mark.parametrize("done", range(4))
def test_an_interrupted_set_goes_on_and_ends_with_the_same_bytes(tmp_path: Path, done: int) -> None:
    whole = files(stored(tmp_path / "whole").folder)
    assert store(tmp_path / "part").begin() == []
    for batch in list(batches())[:done]:
        store(tmp_path / "part").write(batch, process=1)
    (tmp_path / "part" / "set" / "parts" / "1").mkdir(exist_ok=True)
    (tmp_path / "part" / "set" / "parts" / "1" / ".2.npz.1.tmp").write_bytes(b"half")  # of a process that is dead
    again = store(tmp_path / "part")
    assert again.begin() == [*range(done)]
    for batch in list(batches())[done:]:
        again.write(batch)
    again.finish()
    assert files(again.folder) == whole
    assert store(tmp_path / "part").begin() == [0, 1, 2]


def test_batches_that_are_lacking_are_noticed(tmp_path: Path) -> None:
    made = store(tmp_path)
    made.begin()
    made.write(next(batches()))
    with pytest.raises(AssertionError, match="1 of 3 batches"):
        made.finish()


@pytest.mark.parametrize("finished", [True, False])
def test_what_is_of_another_identity_is_made_anew(tmp_path: Path, finished: bool) -> None:
    made = store(tmp_path)
    made.begin()
    for batch in batches():
        made.write(batch)
    if finished:
        made.finish()
        made.write_prompts({"prompts": "p"}, (), torch.ones(2, DIM), {}, ["cat", "dog"])
    assert store(tmp_path).begin() == [0, 1, 2]
    assert store(tmp_path, model="other").begin() == []
    assert {path.name for path in made.folder.rglob("*") if path.is_file()} == {"of.json"}
    assert store(tmp_path).begin() == []


def test_outputs_that_are_not_there_are_made_with_the_others(tmp_path: Path) -> None:
    stored(tmp_path, outputs=("words",))
    assert store(tmp_path).begin() == store(tmp_path, ("words",)).begin() == [0, 1, 2]
    assert store(tmp_path, ("words", "sentences")).begin() == []


def test_prompts_are_kept_by_what_they_are(tmp_path: Path) -> None:
    made = stored(tmp_path)
    features, words, mask = torch.rand(3, DIM), torch.rand(3, 2, 5, DIM), torch.rand(3, 2, 5) > 0.5
    asked = ("words", "token_mask")
    assert not made.has_prompts({"prompts": "a"}, asked)
    made.write_prompts({"prompts": "a"}, asked, features, {"words": words, "token_mask": mask}, NAMES)
    assert made.has_prompts({"prompts": "a"}, asked)
    assert made.has_prompts({"prompts": "a"}, ())
    assert not made.has_prompts({"prompts": "a"}, ("sentences",))
    assert not made.has_prompts({"prompts": "b"}, ())
    found = read_features(made.folder)
    assert isinstance(found.class_features, Tensor)
    assert torch.equal(found.class_features, features)
    assert torch.equal(found.prompts["words"], words)
    assert torch.equal(found.prompts["token_mask"], mask)
    assert found.prompts_hash == "a"
    assert found.classnames == NAMES
    made.write_prompts({"prompts": "b"}, (), features + 1, {}, NAMES)
    assert read_features(made.folder).prompts_hash == "b"
    assert not read_features(made.folder).prompts
    assert made.begin() == [0, 1, 2]


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)


def of_another_set(file: Path) -> None:
    np.save(file, np.load(file)[:-1])


DAMAGE = [cut, empty, flip, of_another_set, Path.unlink]


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["image_embedding", "labels", "prompts/class_features"])
def test_damage_is_told_in_a_line_with_the_folder_to_remove(
    tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    made = stored(tmp_path)
    made.write_prompts({"prompts": "a"}, (), torch.rand(3, DIM), {}, NAMES)
    damage(made.folder / f"{name}.npy")
    readers: list[Callable[[], object]] = [lambda: read_features(made.folder, check=True)]
    readers.append((lambda: made.has_prompts({"prompts": "a"}, ())) if "prompts" in name else made.begin)
    for read in readers:
        with pytest.raises(ValueError, match=r"is damaged or stale \(.*\): remove the folder and run") as caught:
            read()
        assert str((made.folder / name).parent) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_damaged_sidecar_is_told(tmp_path: Path) -> None:
    made = stored(tmp_path)
    facts = json.loads((made.folder / "arrays.json").read_text())
    for text in ("", "[]", "{", json.dumps({"identity": facts["identity"]}), json.dumps({**facts, "arrays": {"a": 1}})):
        (made.folder / "arrays.json").write_text(text)
        with pytest.raises(ValueError, match=r"damaged or stale \(arrays.json cannot be read\)"):
            store(tmp_path).begin()


def test_a_damaged_batch_is_told(tmp_path: Path) -> None:
    for damage in (cut, empty, flip):
        made = store(tmp_path, model=damage.__name__)
        made.begin()
        for batch in batches():
            made.write(batch)
        file = made.folder / "parts" / "0" / "1.npz"
        if damage is flip:
            file.write_bytes(file.read_bytes().replace(column("image/embedding")[BATCH].numpy().tobytes(), bytes(24)))
        else:
            damage(file)
        with pytest.raises(ValueError, match=r"damaged or stale \(parts/0/1.npz cannot be read\)"):
            made.finish()


def test_a_model_is_known_by_all_that_it_computes_with() -> None:
    def towers(**changed: Any) -> Any:
        torch.manual_seed(0)
        sizes = {"image_size": 32, "context_length": 16, "embed_dim": 16, "text_layers": 1}
        vision, text = {"width": 8, "layers": [1, 1, 1, 1]}, {"width": 16, "heads": 2}
        return create_towers("small-resnet", vision_cfg=vision, text_cfg=text, **sizes | changed)

    heads, one = torch.nn.ModuleDict(), towers()
    known = {model_identity(one, heads)}
    assert known == {model_identity(towers(), heads)}
    known.add(model_identity(towers(text_pooling="max"), heads))
    known.add(model_identity(one, torch.nn.ModuleDict({"a": torch.nn.Linear(2, 2)})))
    one.double()
    known.add(model_identity(one, heads))
    one.image.visual.bn1.running_mean += 1
    known.add(model_identity(one, heads))
    assert len(known) == 5
