"""Image and text towers around open_clip's modules; one forward gives embedding, pooled state and tokens."""

from protoclip.towers.configs import model_config, preprocessing
from protoclip.towers.factory import Towers, create_towers
from protoclip.towers.image import ImageTower
from protoclip.towers.text import TextTower

__all__ = ["ImageTower", "TextTower", "Towers", "create_towers", "model_config", "preprocessing"]
