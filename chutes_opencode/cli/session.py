"""Settings for one command, of the user or of an embedded simulator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chutes_opencode.settings import Settings


@contextmanager
def command_settings(*, simulate: bool, **overrides: Any) -> Iterator[Settings]:
    """Load the settings; with `simulate`, those of a simulator that runs as long.

    Args:
        simulate: Whether to start one.
        overrides: As for `load_settings`.

    Raises:
        ConfigurationError: As `load_settings` does.
    """
    from chutes_opencode.settings import load_settings

    if not simulate:
        yield load_settings(**overrides)
        return
    from chutes_opencode.simulator import Simulator

    with Simulator() as simulator:
        yield load_settings(
            **overrides,
            base_url=simulator.base_url,
            management_url=simulator.management_url,
            api_token=simulator.api_token,
        )
