"""Image-text contrastive pretraining: towers, heads, losses, terms, prototypes, evaluation."""

__version__ = "0.1.0"
