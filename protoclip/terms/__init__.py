"""Supervision terms: a method is a weighted sum of them over shared features."""

from protoclip.terms.base import FeatureKey, StepInputs, Term, teacher_view
from protoclip.terms.distillation import AffinityDistillation, FeatureDistillation
from protoclip.terms.image_ssl import SimCLR, SimSiam
from protoclip.terms.image_text import ImageText
from protoclip.terms.mlm import MaskedLM
from protoclip.terms.nearest_neighbour import NearestNeighbour
from protoclip.terms.prototype import Prototype
from protoclip.terms.tokens import FILIP

__all__ = [
    "FILIP",
    "AffinityDistillation",
    "FeatureDistillation",
    "FeatureKey",
    "ImageText",
    "MaskedLM",
    "NearestNeighbour",
    "Prototype",
    "SimCLR",
    "SimSiam",
    "StepInputs",
    "Term",
    "teacher_view",
]
