"""Image and text towers around open_clip's modules; one forward gives embedding, pooled state and tokens."""

from protoclip.towers.factory import Towers, create_towers, model_config
from protoclip.towers.image import ImageTower
from protoclip.towers.text import TextTower

__all__ = ["ImageTower", "TextTower", "Towers", "create_towers", "model_config"]
