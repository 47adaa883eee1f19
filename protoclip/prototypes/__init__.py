"""Prototypes of an episode: clustering, back translation, targets and the bank that keeps them."""

from protoclip.prototypes.assignment import Assignment, Prototypes, assign_prototypes
from protoclip.prototypes.back_translation import back_translate
from protoclip.prototypes.bank import ABSENT, LEFT_OUT, PrototypeBank, PrototypeSide
from protoclip.prototypes.groupings import EpisodeFeatures, Grouping, StudentClusters, TeacherClusters
from protoclip.prototypes.kmeans import Clusters, KMeans, kmeans
from protoclip.prototypes.record import FeatureRecord
from protoclip.prototypes.targets import soft_targets

__all__ = [
    "ABSENT",
    "LEFT_OUT",
    "Assignment",
    "Clusters",
    "EpisodeFeatures",
    "FeatureRecord",
    "Grouping",
    "KMeans",
    "PrototypeBank",
    "PrototypeSide",
    "Prototypes",
    "StudentClusters",
    "TeacherClusters",
    "assign_prototypes",
    "back_translate",
    "kmeans",
    "soft_targets",
]
