"""Evaluation as pure functions: features in, dict out, no Trainer and no communication.

Features are [samples, dim] on CPU or GPU, float32 or float64 (half precision is computed in float32). Accuracies and
recalls are in percent; ARI, AMI, NMI, purity, gap and similarities are as they are. A mistake in what is handed over is
a ``ValueError`` of one line.
"""

from protoclip.evaluation.clustering import cluster_metrics
from protoclip.evaluation.knn import knn_accuracy
from protoclip.evaluation.linear_probe import linear_probe
from protoclip.evaluation.pseudo_labels import cluster_purity, pseudo_label_quality
from protoclip.evaluation.representation import feature_std, modality_gap, self_similarity
from protoclip.evaluation.retrieval import retrieval_metrics
from protoclip.evaluation.zero_shot import class_features, token_zero_shot_metrics, zero_shot_metrics

__all__ = [
    "class_features",
    "cluster_metrics",
    "cluster_purity",
    "feature_std",
    "knn_accuracy",
    "linear_probe",
    "modality_gap",
    "pseudo_label_quality",
    "retrieval_metrics",
    "self_similarity",
    "token_zero_shot_metrics",
    "zero_shot_metrics",
]
