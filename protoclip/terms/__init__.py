"""Supervision terms: a method is a weighted sum of them over shared features."""

from protoclip.terms.base import FeatureKey, StepInputs, Term, teacher_view
from protoclip.terms.distillation import AffinityDistillation, FeatureDistillation
from protoclip.terms.image_text import ImageText
from protoclip.terms.prototype import Prototype

__all__ = [
    "AffinityDistillation",
    "FeatureDistillation",
    "FeatureKey",
    "ImageText",
    "Prototype",
    "StepInputs",
    "Term",
    "teacher_view",
]
