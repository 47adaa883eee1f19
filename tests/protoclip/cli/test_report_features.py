from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from protoclip.cli.arms import Arm
from protoclip.cli.report_features import FeatureSections
from protoclip.evaluation import Extracted
from protoclip.evaluation.feature_store import read_features
from protoclip.runs import Run


def extracted(samples: int, classes: int) -> Extracted:
    draw = torch.Generator().manual_seed(0)
    features = functional.normalize(torch.randn(samples, 8, generator=draw), dim=-1)
    prompts = functional.normalize(torch.randn(classes, 8, generator=draw), dim=-1)
    return Extracted({"features": features}, torch.arange(samples) % classes, class_features=prompts)


def sections(monkeypatch: pytest.MonkeyPatch, sets: Mapping[str, Extracted], **fingerprints: str) -> FeatureSections:
    """Of arms whose set is called ``x``, and has a fingerprint in some."""
    known = {title: {"x": fingerprint} for title, fingerprint in fingerprints.items()}
    monkeypatch.setattr("protoclip.cli.report_features.set_fingerprints", lambda run: known.get(run.hash, {}))

    def stored(run: Run) -> Mapping[str, Extracted]:
        return {"x": sets[run.hash] if run.hash in sets else read_features(run.path)}

    monkeypatch.setattr("protoclip.cli.report_features.stored_features", stored)
    return FeatureSections([Arm(title, (Run(Path(title), title),)) for title in sets])


def test_a_set_too_small_for_tsne_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    made = sections(monkeypatch, {"small": extracted(3, 3), "enough": extracted(5, 3)}).embeddings()
    assert [shown.alt for shown in made.groups[0].figures] == ["t-SNE of x, enough"]
    assert made.left_out == ["Left out: small: t-SNE needs 5 pictures, x has fewer."]


def test_arms_of_other_classes_are_left_out_of_confusions(monkeypatch: pytest.MonkeyPatch) -> None:
    sets = {"first": extracted(6, 3), "other": extracted(6, 4), "third": extracted(6, 3)}
    made = sections(monkeypatch, sets)
    confusion = made.confusions()
    assert [shown.alt.rpartition(", ")[2] for shown in confusion.groups[0].figures] == ["first", "third"]
    assert confusion.left_out == ["Left out: other: x has not 3 classes there."]
    embeddings = made.embeddings()
    assert [shown.alt for shown in embeddings.groups[0].figures] == ["t-SNE of x, first", "t-SNE of x, third"]
    assert embeddings.left_out == ["Left out: other: x has other pictures there than in first."]


def test_tsne_shows_the_pictures_of_the_first_set_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    titles = ("first", "same", "other", "earlier")
    made = sections(monkeypatch, {title: extracted(6, 3) for title in titles}, first="f", same="f", other="g")
    embeddings = made.embeddings()
    assert [shown.alt.rpartition(", ")[2] for shown in embeddings.groups[0].figures] == ["first", "same", "earlier"]
    assert embeddings.left_out == ["Left out: other: x has other pictures there than in first."]
    assert [name for name, _ in embeddings.legend] == ["0", "1", "2"]
    assert len({colour for _, colour in embeddings.legend}) == 3


@pytest.mark.parametrize("pictures", [None, "x"])
def test_damaged_features_leave_their_arm_out(monkeypatch: pytest.MonkeyPatch, pictures: str | None) -> None:
    made = sections(monkeypatch, {"whole": extracted(6, 3)})
    arms = [*made.arms, Arm("spoilt", (Run(Path("spoilt"), "spoilt"),))]
    line = "spoilt is damaged or stale (arrays.json cannot be read): remove the folder and run the same command again"
    both = FeatureSections(arms, pictures)
    for section in (both.embeddings(), both.confusions()):
        assert [shown.alt.rpartition(", ")[2] for shown in section.groups[0].figures] == ["whole"]
        assert section.left_out == [f"Left out: spoilt: {line}."]
    alone = FeatureSections(arms[1:], pictures)
    assert alone.embeddings().left_out == alone.similarities().left_out == [f"Left out: spoilt: {line}."]
