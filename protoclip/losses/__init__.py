"""Losses as pure functions on tensors.

Features are L2-normalised, [batch, dim]; ``logit_scale`` is exp(log_scale), i.e. 1 / temperature. A loss is the mean
over its anchors. Nothing here communicates: a caller that trains on several devices gathers the features (with
gradient) and passes ``rows``, the slice of the global batch whose rows are its own anchors.
"""

from protoclip.losses.contrastive import SMOOTHINGS, clip_loss
from protoclip.losses.distillation import affinity_distillation_loss, feature_distillation_loss
from protoclip.losses.prototype import prototype_loss

__all__ = [
    "SMOOTHINGS",
    "affinity_distillation_loss",
    "clip_loss",
    "feature_distillation_loss",
    "prototype_loss",
]
