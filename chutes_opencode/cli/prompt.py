"""`chutes-opencode prompt`: placeholder until the lead's file is here."""

from __future__ import annotations

from chutes_opencode.errors import ConfigurationError


def prompt() -> None:
    """Send a prompt."""
    raise ConfigurationError(raw_message="the prompt command is not written yet")
