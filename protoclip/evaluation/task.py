"""Evaluation tasks: which features of which picture sets go into which metric.

A picture set is extracted once, whatever the number of tasks that look at it.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

import torch
from torch import Tensor


@dataclass(frozen=True)
class Extracted:
    """Features of a picture set.

    Attributes:
        image: outputs of the image tower and heads by name, [pictures, ...].
        labels: classes [pictures], -1 where there are none.
        text: outputs of the text tower and heads for all captions, in the order of the pictures; empty without.
        owner: each caption's picture [captions].
        class_features: unit vectors [classes, dim] from the prompts, for labelled sets.
        prompts: outputs of the text tower and heads for the prompts, [classes, templates, ...], that a task asks for.
        prompts_hash: hash of class names and templates.
        classnames: names of the classes.
    """

    image: Mapping[str, Tensor]
    labels: Tensor
    text: Mapping[str, Tensor] = field(default_factory=dict)
    owner: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    class_features: Tensor | None = None
    prompts: Mapping[str, Tensor] = field(default_factory=dict)
    prompts_hash: str | None = None
    classnames: tuple[str, ...] = ()


Sets = Mapping[str, Extracted]


class Task(ABC):
    """One row of results.

    Args:
        pictures: name of the picture set that is scored.
        train: name of the labelled set that a classifier is fitted on.
    """

    output = "features"
    """Output of the image tower that is needed; of a model that lacks it the task is left out."""
    prompt_outputs: tuple[str, ...] = ()
    """Outputs of the text tower for the prompts that are needed beside the class features."""

    def __init__(self, pictures: str, train: str | None = None) -> None:
        self.pictures = pictures
        self.train = train

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the picture sets."""
        return (self.pictures,) if self.train is None else (self.pictures, self.train)

    def applies(self, outputs: Collection[str]) -> bool:
        """Whether a model with these outputs of pictures has what the task looks at."""
        return self.output in outputs

    @abstractmethod
    def __call__(self, sets: Sets) -> dict[str, float]:
        """Metrics by name."""

    def splits(self, sets: Sets, output: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """An output of the image tower and the labels of the set that is fitted on, then of the one that is scored.

        Raises:
            ValueError: there is no set to fit on, or a label means another class in it.
        """
        if self.train is None:
            raise ValueError(f"{type(self).__name__} on {self.pictures} needs train: the set it is fitted on")
        train, test = sets[self.train], sets[self.pictures]
        if train.classnames and test.classnames:
            self._check_classnames(train.classnames, test.classnames)
        return train.image[output], train.labels, test.image[output], test.labels

    def _check_classnames(self, train: Sequence[str], test: Sequence[str]) -> None:
        for label, names in enumerate(zip_longest(train, test)):
            if names[0] != names[1]:
                fitted, scored = (repr(name) if name is not None else "missing" for name in names)
                raise ValueError(
                    f"class {label} is {fitted} in {self.train} and {scored} in {self.pictures}: "
                    "give both the same classnames=, and pictures of each class"
                )
