"""The sections of a report, each of a page's arms: what there is, and in a line why something is not."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path

import numpy as np
import torch

from protoclip.cli.arms import Arm, lacking, set_fingerprints, settings_of
from protoclip.cli.errors import told
from protoclip.cli.figures import prototype_panels, stored_features
from protoclip.cli.projector import project
from protoclip.evaluation import Extracted, confusion_matrix, modality_gap
from protoclip.instantiate import SettingsError
from protoclip.reports.charts import (
    Array,
    confusion_chart,
    most_confused,
    similarity_chart,
)
from protoclip.reports.figures import TSNE_SAMPLES, PrototypePanel, label_legend, prototype_strip, tsne_figure
from protoclip.reports.page import Card, Group, Section, bitmap, chart, photograph

CLASSES = 12
"""Of a confusion matrix; of more, those that are confused most."""
PAIRS = 1000
"""Pictures whose similarities to each other's captions are shown."""


@dataclass(frozen=True)
class FeatureSections:
    """What the sections are made of.

    Attributes:
        arms: in their order.
        pictures: labelled set of t-SNE and confusion matrices; None for the first that the arms have.
    """

    arms: Sequence[Arm]
    pictures: str | None = None

    @cached_property
    def _stored(self) -> tuple[dict[str, Mapping[str, Extracted]], dict[str, str]]:
        """By title of an arm the features of its first run, or what is wrong with them."""
        found: dict[str, Mapping[str, Extracted]] = {}
        damaged: dict[str, str] = {}
        for arm in self.arms:
            try:
                found[arm.title] = stored_features(arm.first)
            except (ValueError, OSError) as error:
                if (line := told(error)) is None:
                    raise
                damaged[arm.title] = line
        return found, damaged

    @property
    def features(self) -> dict[str, Mapping[str, Extracted]]:
        """Of the arms by title, those of the first run; without the arms whose features are damaged."""
        return self._stored[0]

    @property
    def labelled(self) -> str | None:
        """The labelled set that is shown.

        Raises:
            ValueError: no arm has features of the set that was asked for.
        """
        names = [
            name
            for sets in self.features.values()
            for name, found in sets.items()
            if found.class_features is not None and not name.endswith("_train")
        ]
        if self.pictures is not None and self.pictures not in names and not self._stored[1]:
            known = ", ".join(dict.fromkeys(names)) or "none"
            raise ValueError(f"no features of a labelled set {self.pictures!r}: set --pictures to one of {known}")
        return self.pictures or max(dict.fromkeys(names), key=names.count, default=None)

    @property
    def paired(self) -> str | None:
        """The set of pairs that is shown."""
        names = [name for sets in self.features.values() for name, found in sets.items() if found.text]
        return max(dict.fromkeys(names), key=names.count, default=None)

    def having(self, name: str | None) -> dict[str, Extracted]:
        """Joint features of a set by the titles of the arms that have them."""
        found = {title: sets[name] for title, sets in self.features.items() if name is not None and name in sets}
        return {title: each for title, each in found.items() if "features" in each.image}

    def without_features(self, having: Collection[str], what: str) -> list[str]:
        """Lines about the arms that have no features of a set, or damaged ones."""
        damaged = self._stored[1]
        whole = [arm for arm in self.arms if arm.title not in damaged]
        told_each = [f"Left out: {title}: {line}." for title, line in damaged.items()]
        return told_each + lacking(whole, having, f"stored features of {what}: protoclip test writes them")

    def _of_one_set(self, name: str, found: Mapping[str, Extracted]) -> list[str]:
        """The arms whose set is that of the first: by its fingerprint, or by its labels where one is not known."""
        known = {arm.title: set_fingerprints(arm.first).get(name) for arm in self.arms if arm.title in found}
        first = next(iter(found), "")
        return [
            title
            for title, each in found.items()
            if (
                known[title] == known[first]
                if known[title] and known[first]
                else torch.equal(each.labels, found[first].labels)
            )
        ]

    def sections(self) -> list[Section]:
        """All of them."""
        return [self.embeddings(), self.prototypes(), self.similarities(), self.confusions()]

    def project(self) -> list[Path]:
        """Write the embeddings of each arm's first run for TensorBoard's projector.

        Returns:
            The folders.
        """
        name = self.labelled
        having = self.having(name)
        return [project(arm.first, str(name), having[arm.title]) for arm in self.arms if arm.title in having]

    def embeddings(self) -> Section:
        """t-SNE of a labelled set, an arm a map."""
        name = self.labelled
        having = self.having(name)
        enough = {title: found for title, found in having.items() if len(found.labels) >= TSNE_SAMPLES}
        alike = self._of_one_set(str(name), enough)
        figures, left_out = [], []
        for title, found in having.items():
            if title not in enough:
                left_out.append(f"Left out: {title}: t-SNE needs {TSNE_SAMPLES} pictures, {name} has fewer.")
            elif title not in alike:
                left_out.append(f"Left out: {title}: {name} has other pictures there than in {alike[0]}.")
            else:
                panel, names = {title: (found.image["features"], found.labels)}, found.classnames or None
                with BytesIO() as buffer:
                    tsne_figure(panel, buffer, classnames=names, legend=False)
                    figures.append(bitmap(buffer.getvalue(), f"t-SNE of {name}, {title}"))
        legends = [label_legend(each.labels.numpy(), each.classnames or None) for each in enough.values()]
        return Section(
            "embeddings",
            "Embeddings",
            f"t-SNE of the image features of {name}, the same pictures for each; colours are classes.",
            [Group("", figures)] if figures else (),
            legends[0] if legends else (),
            left_out + self.without_features(having, name or "a labelled set"),
        )

    def prototypes(self) -> Section:
        """Prototypes of each arm with their nearest pairs."""
        groups: list[Group] = []
        without, left_out = [], []
        for arm in self.arms:
            has_bank = any(key.startswith("model.banks.prototype.") for key in settings_of(arm.first))
            try:
                panels = prototype_panels(arm.first) if has_bank else []
            except (ValueError, OSError) as error:
                if (line := told(error)) is None:
                    raise
                stale = isinstance(error, SettingsError)
                left_out.append(f"Left out: {arm.title}: {'settings of another version' if stale else line}.")
                continue
            if not panels:
                without.append(arm.title)
            for side in ("image", "text"):
                cards = [_card(panel, arm.title) for panel in panels if panel["modality"] == side]
                groups += [Group(f"{arm.title}: {side} prototypes", cards=cards)] if cards else []
        left_out += [f"Left out: no prototypes in {', '.join(without)}."] if without else []
        text = (
            "Some prototypes of the last episode, drawn at random, with the pairs that lie nearest to their centroids."
        )
        return Section("prototypes", "Prototypes", text, groups, left_out=left_out)

    def similarities(self) -> Section:
        """Cosines of matched and unmatched pairs, and the modality gap."""
        name = self.paired
        having = {title: found for title, found in self.having(name).items() if "features" in found.text}
        cosines = {title: _cosines(found) for title, found in having.items()}
        both = [values for pair in cosines.values() for values in pair]
        limits = (min(map(np.min, both), default=0.0), max(map(np.max, both), default=1.0))
        figures = []
        for title, (matched, unmatched) in cosines.items():
            first = torch.searchsorted(having[title].owner, torch.arange(len(having[title].labels)))
            gap = modality_gap(having[title].image["features"], having[title].text["features"][first])
            caption = (
                f"modality gap {gap:.3f}, mean cosine {matched.mean():.3f} matched, {unmatched.mean():.3f} unmatched"
            )
            drawn = similarity_chart(title, matched, unmatched, limits)
            figures.append(chart(drawn, f"similarities of image-text pairs, {title}", caption))
        return Section(
            "similarities",
            "Image-text similarities",
            f"Cosines of the pairs of {name}, each picture with its first caption and with those of the others. "
            "The modality gap is the distance of the mean image to the mean text.",
            [Group("", figures)] if figures else (),
            left_out=self.without_features(having, name or "a set of pairs"),
        )

    def confusions(self) -> Section:
        """Zero-shot confusion matrices of a labelled set, or the part that is confused most."""
        name = self.labelled
        having = {title: found for title, found in self.having(name).items() if found.class_features is not None}
        classes = next(map(_classes, having.values()), 0)
        others = [title for title, found in having.items() if _classes(found) != classes]
        shares = {title: _shares(found) for title, found in having.items() if title not in others}
        figures = []
        part = ""
        if shares:
            chosen = most_confused(list(shares.values()), CLASSES)
            names = next(iter(having.values())).classnames or [str(number) for number in range(classes)]
            for title, matrix in shares.items():
                drawn = confusion_chart(title, matrix[np.ix_(chosen, chosen)], [names[number] for number in chosen])
                figures.append(chart(drawn, f"zero-shot confusion of {name}, {title}"))
            part = (
                f" Of its {classes} classes the {len(chosen)} that are confused most." if len(chosen) < classes else ""
            )
        left_out = [f"Left out: {', '.join(others)}: {name} has not {classes} classes there."] if others else []
        return Section(
            "confusion",
            "Confusion",
            f"Zero-shot classification of {name}, in percent of a true class' pictures.{part}",
            [Group("", figures)] if figures else (),
            left_out=left_out + self.without_features(having, name or "a labelled set"),
        )


def _classes(found: Extracted) -> int:
    """Number of the classes of a labelled set."""
    return len(found.class_features) if found.class_features is not None else int(found.labels.max()) + 1


def _card(panel: PrototypePanel, arm: str) -> Card:
    title = f"{panel['modality']} prototype {panel['id']}"
    strip = photograph(prototype_strip(panel["images"], len(panel["images"])), f"nearest pictures of {title}, {arm}")
    return Card(title, f"{panel['size']:,} samples", strip, panel["captions"])


def _cosines(found: Extracted) -> tuple[Array, Array]:
    """Of the first pictures with their first captions, and with those of the others."""
    first = torch.searchsorted(found.owner, torch.arange(min(PAIRS, len(found.labels))))
    images, texts = found.image["features"][: len(first)].float(), found.text["features"][first].float()
    cosines = images @ texts.T
    own = torch.eye(len(first), dtype=torch.bool)
    return cosines[own].numpy(), cosines[~own].numpy()


def _shares(found: Extracted) -> Array:
    """The zero-shot confusion matrix in percent of each true class."""
    assert found.class_features is not None
    counts = confusion_matrix(found.image["features"], found.class_features, found.labels).double()
    shares: Array = (100 * counts / counts.sum(dim=1, keepdim=True).clamp(min=1)).numpy()
    return shares
