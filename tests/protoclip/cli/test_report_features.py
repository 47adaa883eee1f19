from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from protoclip.cli.arms import Arm
from protoclip.cli.report_features import FeatureSections
from protoclip.evaluation import Extracted
from protoclip.runs import Run


def extracted(samples: int, classes: int) -> Extracted:
    draw = torch.Generator().manual_seed(0)
    features = functional.normalize(torch.randn(samples, 8, generator=draw), dim=-1)
    prompts = functional.normalize(torch.randn(classes, 8, generator=draw), dim=-1)
    return Extracted({"features": features}, torch.arange(samples) % classes, class_features=prompts)


def sections(monkeypatch: pytest.MonkeyPatch, sets: Mapping[str, Extracted]) -> FeatureSections:
    """Of arms whose set is called ``x``."""
    monkeypatch.setattr("protoclip.cli.report_features.stored_features", lambda run: {"x": sets[run.hash]})
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
    assert len(made.embeddings().groups[0].figures) == 3
