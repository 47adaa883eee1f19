"""Evaluation as pure functions: features in, dict out, no Trainer and no communication; each with its ``Task``.

Features are [samples, dim] on CPU or GPU, float32 or float64 (half precision is computed in float32). Accuracies and
recalls are in percent; ARI, AMI, NMI, purity, gap and similarities are as they are. A mistake in what is handed over is
a ``ValueError`` of one line.
"""

from protoclip.evaluation.clustering import Clustering, cluster_metrics
from protoclip.evaluation.confusion import confusion_matrix
from protoclip.evaluation.few_shot import FewShot, few_shot_probe
from protoclip.evaluation.knn import KNN, knn_accuracy
from protoclip.evaluation.linear_probe import LinearProbe, linear_probe
from protoclip.evaluation.pseudo_labels import PseudoLabels, cluster_purity, pseudo_label_quality
from protoclip.evaluation.representation import feature_std, modality_gap, self_similarity
from protoclip.evaluation.retrieval import Retrieval, retrieval_metrics
from protoclip.evaluation.sgd_probe import SGDProbe, sgd_probe
from protoclip.evaluation.task import Extracted, Sets, Task
from protoclip.evaluation.zero_shot import (
    TokenZeroShot,
    ZeroShot,
    class_features,
    token_zero_shot_metrics,
    zero_shot_metrics,
)

__all__ = [
    "KNN",
    "Clustering",
    "Extracted",
    "FewShot",
    "LinearProbe",
    "PseudoLabels",
    "Retrieval",
    "SGDProbe",
    "Sets",
    "Task",
    "TokenZeroShot",
    "ZeroShot",
    "class_features",
    "cluster_metrics",
    "cluster_purity",
    "confusion_matrix",
    "feature_std",
    "few_shot_probe",
    "knn_accuracy",
    "linear_probe",
    "modality_gap",
    "pseudo_label_quality",
    "retrieval_metrics",
    "self_similarity",
    "sgd_probe",
    "token_zero_shot_metrics",
    "zero_shot_metrics",
]
