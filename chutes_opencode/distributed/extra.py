"""The extra `[ray]`: all other modules of this folder get `ray` from here."""

from __future__ import annotations

from chutes_opencode.errors import ConfigurationError

INSTALL = "pip install 'chutes-opencode[ray]'"

try:
    import ray
except Exception as error:  # a Ray that does not fit its other packages breaks in any way
    raise ConfigurationError(
        raw_message=f"Ray cannot be imported ({error}): {INSTALL}", hint=f"{INSTALL}."
    ) from error

__all__ = ["INSTALL", "ray"]
