"""Losses as pure functions on tensors.

Features are L2-normalised, [batch, dim]; ``logit_scale`` is exp(log_scale), i.e. 1 / temperature. A loss is the mean
over its anchors. Nothing here communicates: a caller that trains on several devices gathers the features (with
gradient) and passes ``rows``, the slice of the global batch whose rows are its own anchors.
"""

from protoclip.losses.contrastive import SMOOTHINGS, clip_loss, nearest_neighbour_loss, sigmoid_loss
from protoclip.losses.distillation import affinity_distillation_loss, feature_distillation_loss
from protoclip.losses.prototype import prototype_loss
from protoclip.losses.self_supervised import masked_lm_loss, ntxent_loss, simsiam_loss
from protoclip.losses.tokens import filip_loss, token_similarity

__all__ = [
    "SMOOTHINGS",
    "affinity_distillation_loss",
    "clip_loss",
    "feature_distillation_loss",
    "filip_loss",
    "masked_lm_loss",
    "nearest_neighbour_loss",
    "ntxent_loss",
    "prototype_loss",
    "sigmoid_loss",
    "simsiam_loss",
    "token_similarity",
]
