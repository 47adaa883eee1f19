import json
from pathlib import Path

import pytest
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES

import datamodules.prompts
from datamodules.prompts import checked_templates, read_prompts, words

FOLDER = Path(datamodules.prompts.__file__).parent
TEMPLATES = {"imagenet": 80, "cifar10": 18, "cifar100": 18, "stl10": 2, "birdsnap": 1, "country211": 5, "flowers102": 1}
TEMPLATES |= {"gtsrb": 3, "cars": 8, "dtd": 8, "food101": 1, "pets": 1, "rendered_sst2": 1, "ucf101": 48}
"""The published counts."""
CLASSES = {"imagenet": 1000, "country211": 211, "flowers102": 102, "gtsrb": 43, "pets": 37, "rendered_sst2": 2}


def test_every_set_has_its_prompts_and_their_source() -> None:
    assert {file.stem for file in FOLDER.glob("*.json")} == set(TEMPLATES)
    for name, number in TEMPLATES.items():
        prompts = read_prompts(name)
        assert checked_templates(prompts.templates) == prompts.templates
        assert len({*prompts.templates}) == len(prompts.templates) == number
        assert (prompts.classnames is None) == (name not in CLASSES)
        assert prompts.classnames is None or len(prompts.classnames) == CLASSES[name]
        source = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))["source"]
        assert {"templates", "classnames"} <= source.keys()
        assert all(source.values())


def test_imagenet_is_open_clips_in_the_order_of_the_wordnet_ids() -> None:
    prompts = read_prompts("imagenet")
    assert prompts.classnames == list(IMAGENET_CLASSNAMES)
    assert prompts.templates == [template("{}") for template in OPENAI_IMAGENET_TEMPLATES]
    assert prompts.folders is not None
    assert prompts.folders == sorted({*prompts.folders})
    assert dict(zip(prompts.folders, prompts.classnames, strict=True))["n01440764"] == "tench"
    assert {name for name in prompts.classnames if prompts.classnames.count(name) > 1} == {"missile", "sunglasses"}


def test_prompts_that_were_changed_are_refused(tmp_path: Path) -> None:
    content = json.loads((FOLDER / "pets.json").read_text(encoding="utf-8"))
    for changed in ({"templates": ["a {}."]}, {"classnames": content["classnames"][::-1]}, {"folders": ["a"]}):
        (tmp_path / "pets.json").write_text(json.dumps(content | changed), encoding="utf-8")
        with pytest.raises(ValueError, match=r"pets\.json was changed: bring it back") as told:
            read_prompts("pets", tmp_path)
        assert "\n" not in str(told.value)
    with pytest.raises(ValueError, match=r"^there are no prompts of 'cats', only of pets: give classnames"):
        read_prompts("cats", tmp_path)


def test_templates_have_one_place_for_the_name() -> None:
    assert checked_templates("a {}.") == checked_templates(["a {}."]) == ["a {}."]
    for wrong in ([], "a cat", ["a {}.", "{} {}"]):
        with pytest.raises(ValueError, match=r"^templates=.*: give prompts with one {} each"):
            checked_templates(wrong)


def test_folders_become_words() -> None:
    named = {"apple_pie": "apple pie", "ApplyEyeMakeup": "Apply Eye Makeup", "TV": "TV", "n01440764": "n01440764"}
    assert {name: words(name) for name in named} == named
