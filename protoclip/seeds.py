"""Seeds as a pure function of what they are for, so that nothing has to be replayed on resume."""

from hashlib import blake2b


def derive_seed(*parts: int | str) -> int:
    """A seed in [0, 2**63) that depends on all parts, e.g. ``derive_seed(seed, "episode", 3)``."""
    digest = blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
