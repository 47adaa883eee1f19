"""External teachers: frozen models that encode the corpus once, and the caches that training reads their rows of."""

from protoclip.teachers.cache import TeacherCache
from protoclip.teachers.encoders import Encoder

__all__ = ["Encoder", "TeacherCache"]
