"""Pseudonyms: the log tells units apart without ever holding their names."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b

__all__ = ["PSEUDONYM_BYTES", "pseudonyms"]

PSEUDONYM_BYTES = 16
"""Length of a pseudonym; it is written as twice as many hex digits."""


def pseudonyms(units: Iterable[str], key: bytes) -> list[str | None]:
    """Return the pseudonym of each unit: keyed BLAKE2b (RFC 7693), so that nobody without the key can try names.

    Args:
        units: Raw values of the randomised unit; an empty one is none.
        key: The installation's secret, of any length.

    Returns:
        32 hex digits each; nothing for no unit. The same unit and key give the same pseudonym in every process.
    """
    keyed = _keyed(key)
    found: list[str | None] = []
    for unit in units:
        if unit:
            # A copy of a hash that has read the key already costs half of a new one.
            digest = keyed.copy()
            digest.update(unit.encode("utf-8", "surrogatepass"))
            found.append(digest.hexdigest())
        else:
            found.append(None)
    return found


@lru_cache(maxsize=4)
def _keyed(key: bytes) -> blake2b:
    # BLAKE2b takes at most 64 key bytes; a longer secret is hashed to that, not cut.
    short = key if len(key) <= blake2b.MAX_KEY_SIZE else blake2b(key).digest()
    return blake2b(key=short, digest_size=PSEUDONYM_BYTES)
