"""Prototypes of an episode: clustering, back translation, targets and the bank that keeps them."""

from protoclip.prototypes.assignment import Assignment, assign_prototypes
from protoclip.prototypes.back_translation import back_translate
from protoclip.prototypes.bank import PrototypeBank, PrototypeSide
from protoclip.prototypes.kmeans import Clusters, KMeans, kmeans
from protoclip.prototypes.targets import soft_targets

__all__ = [
    "Assignment",
    "Clusters",
    "KMeans",
    "PrototypeBank",
    "PrototypeSide",
    "assign_prototypes",
    "back_translate",
    "kmeans",
    "soft_targets",
]
