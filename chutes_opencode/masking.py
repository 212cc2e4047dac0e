"""Keep secrets out of everything that people or machines read: logs, errors, results, reprs.

A secret is masked when it was registered (the key in use, a lease, a server's password) or when
it looks like a Chutes key or a bearer header. Registering costs nothing and is never undone: a
key that was rotated away is still a key.
"""

from __future__ import annotations

import re
from typing import Any

MASK = "[masked]"

# Shorter values would mask ordinary words out of ordinary text.
MIN_SECRET_LENGTH = 8

_KEY_SHAPE = re.compile(r"\bcpk_[A-Za-z0-9._\-]{8,}")
_BEARER = re.compile(r"(?i)\b(bearer\s+)(?!\[masked\])[A-Za-z0-9._~+/\-]{8,}=*")

_registered: set[str] = set()


def register_secret(secret: str) -> None:
    """Mask `secret` from now on, wherever `mask` is applied in this process.

    Args:
        secret: The value; ignored when shorter than `MIN_SECRET_LENGTH` characters.
    """
    if len(secret) >= MIN_SECRET_LENGTH:
        _registered.add(secret)


def mask(text: str) -> str:
    """Return `text` with every registered or recognisable secret replaced by `MASK`."""
    # Longest first: one key may be part of another.
    for secret in sorted(_registered, key=len, reverse=True):
        if secret in text:
            text = text.replace(secret, MASK)
    if "cpk_" in text:
        text = _KEY_SHAPE.sub(MASK, text)
    if "earer" in text or "EARER" in text:
        text = _BEARER.sub(rf"\1{MASK}", text)
    return text


def mask_value(value: Any) -> Any:
    """Return `value` with every string inside it masked; dicts, lists and tuples are walked."""
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, dict):
        return {mask_value(key): mask_value(item) for key, item in value.items()}
    if isinstance(value, list):
        return [mask_value(item) for item in value]
    if isinstance(value, tuple):
        return tuple(mask_value(item) for item in value)
    return value
