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

from protoclip.evaluation.feature_store import FeatureStore, PromptStore, StoredOutputs, model_identity, read_features
from protoclip.towers import create_towers

SIZE, BATCH, DIM = 10, 4, 6
NAMES = ("a", "b", "c")
IDENTITY = {"model": "m", "pixels": {"mean": (0.5, 0.25)}}
OWNERS = np.repeat(np.arange(SIZE), [2, 1, 3, 1, 1, 2, 1, 1, 1, 4])

Batch = dict[str, NDArray[Any]]


def store(folder: Path, outputs: tuple[str, ...] = (), **identity: Any) -> FeatureStore:
    return FeatureStore(folder, IDENTITY | identity, frozenset(outputs), SIZE, BATCH)


def prompt_store(folder: Path, outputs: tuple[str, ...] = (), prompts: str = "a") -> PromptStore:
    return PromptStore(folder, {"model": "m", "prompts": prompts, "classnames": NAMES}, frozenset(outputs))


class Encode:
    """Features of prompts; keeps what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[set[str]] = []

    def __call__(self, outputs: frozenset[str]) -> dict[str, Any]:
        self.asked.append({*outputs})
        generator = torch.Generator().manual_seed(len(self.asked))
        drawn = {name: torch.rand(3, 2, 5, DIM, generator=generator) for name in outputs}
        return {"class_features": torch.rand(3, DIM, generator=generator), "prompts": drawn}


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
    killed = store(tmp_path / "part")
    assert killed.begin() == []
    for batch in list(batches())[:done]:
        killed.write(batch, process=1)
    del killed  # its lock goes with it
    again = store(tmp_path / "part")
    (again.folder / "parts" / "1").mkdir(exist_ok=True)
    (again.folder / "parts" / "1" / ".2.npz.1.tmp").write_bytes(b"half")  # of a process that is dead
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


def test_another_identity_has_a_folder_of_its_own(tmp_path: Path) -> None:
    one, other = stored(tmp_path), store(tmp_path, model="other")
    assert other.begin() == []
    assert one.folder != other.folder
    assert store(tmp_path).begin() == [0, 1, 2]


def test_a_second_process_is_told_to_wait_until_the_set_is_whole(tmp_path: Path) -> None:
    made = store(tmp_path)
    made.begin()
    for batch in batches():
        made.write(batch)
        with pytest.raises(ValueError, match=f"{made.folder} is being written by another process: wait for it"):
            store(tmp_path).begin()
    made.finish()
    assert store(tmp_path).begin() == [0, 1, 2]


def test_what_is_closed_before_its_first_batch_leaves_nothing(tmp_path: Path) -> None:
    root = tmp_path / "features"
    made = store(root)
    made.begin()
    made.close()
    assert not root.exists()
    made = store(root)
    made.begin()
    made.write(next(batches()))
    made.close()
    assert store(root).begin() == [0]


def test_those_who_ask_for_different_outputs_do_not_take_turns(tmp_path: Path) -> None:
    stored(tmp_path, outputs=("words",))
    assert store(tmp_path).begin() == store(tmp_path, ("words",)).begin() == [0, 1, 2]
    wider = store(tmp_path, ("sentences",))
    assert wider.begin() == []
    assert wider.outputs == {"words", "sentences"}
    for batch in batches(outputs=("words", "sentences")):
        wider.write(batch)
    assert {*read_features(wider.folder).image} == {"embedding", "features", "words"}  # they can be read meanwhile
    wider.finish()
    assert {*read_features(wider.folder, check=True).image} == {"embedding", "features", "words", "sentences"}
    assert store(tmp_path, ("words",)).begin() == store(tmp_path, ("sentences",)).begin() == [0, 1, 2]


def test_what_was_begun_for_fewer_outputs_is_begun_anew_with_all(tmp_path: Path) -> None:
    for asked, expected in (("words", {"words"}), ("sentences", {"words", "sentences"})):
        made = store(tmp_path, (asked,))
        assert made.begin() == []
        assert made.outputs == expected
        made.write(next(batches(outputs=tuple(expected))))
        made.close()
    again = store(tmp_path)
    assert again.begin() == [0]
    assert again.outputs == {"words", "sentences"}


def test_prompts_are_encoded_once_and_kept_by_what_they_are(tmp_path: Path) -> None:
    pictures, encode = stored(tmp_path), Encode()
    for outputs in ((), ("words",), (), ("words",), ("token_mask",), ("words",)):
        prompt_store(tmp_path, outputs).keep(encode)
    assert encode.asked == [set(), {"words"}, {"words", "token_mask"}]
    other = prompt_store(tmp_path, prompts="b")
    other.keep(encode)
    found = read_features(pictures.folder, prompt_store(tmp_path).folder)
    assert (found.prompts_hash, found.classnames, {*found.prompts}) == ("a", NAMES, {"words", "token_mask"})
    assert found.class_features is not None
    assert found.class_features.shape == (3, DIM)
    assert read_features(pictures.folder, other.folder).prompts_hash == "b"


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
@pytest.mark.parametrize("name", ["image_embedding", "labels", "class_features"])
def test_damage_is_told_in_a_line_with_the_folder_to_remove(
    tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    made, prompted = stored(tmp_path), prompt_store(tmp_path)
    prompted.keep(Encode())
    folder = (prompted if name == "class_features" else made).folder
    damage(folder / f"{name}.npy")
    readers: list[Callable[[], object]] = [lambda: read_features(made.folder, prompted.folder, check=True)]
    readers.append((lambda: prompted.keep(Encode())) if folder == prompted.folder else made.begin)
    for read in readers:
        with pytest.raises(
            ValueError, match=rf"{folder} is damaged or stale \(.*\): remove the folder and run"
        ) as caught:
            read()
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
