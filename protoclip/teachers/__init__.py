"""External teachers: frozen models that encode the corpus once, and the caches that training reads their rows of."""

from protoclip.teachers.cache import TeacherCache
from protoclip.teachers.encoders import Encoder
from protoclip.teachers.open_clip_towers import OpenClipImage, OpenClipText
from protoclip.teachers.timm_image import TimmImage
from protoclip.teachers.transformers_text import TransformersText

__all__ = ["Encoder", "OpenClipImage", "OpenClipText", "TeacherCache", "TimmImage", "TransformersText"]
