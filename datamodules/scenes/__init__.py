"""An embedded corpus: rendered pictures of named objects with captions from a grammar. No files, any size and seed."""

from datamodules.scenes.corpora import SceneObjects, ScenePairs
from datamodules.scenes.layout import Scene, Thing

__all__ = ["Scene", "SceneObjects", "ScenePairs", "Thing"]
