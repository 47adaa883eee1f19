"""The Hydra tree: the only home of an experiment's defaults."""
