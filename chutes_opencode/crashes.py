"""What a prompt makes of servers that die under it: it is begun anew, and in the end alone. Pure.

A server that many prompts share dies with all of them; that is no fault of most, so it is not
counted among their `retries`. One of them may be what kills it: in the end each runs by itself.
"""

from __future__ import annotations

from chutes_opencode.engines.base import Evidence

# After so many a prompt gets a server of its own; sooner if its tools were at work when that died.
ALONE_AFTER = 10
ALONE_AFTER_TOOLS = 2


class Crashes:
    """The crashes of one call.

    Attributes:
        count: How many it has been under, on servers that it shared.
    """

    def __init__(self) -> None:
        """Begin without one."""
        self.count = 0
        self._suspicions = 0

    @property
    def alone(self) -> bool:
        """Whether it must share no server any more: it may be what kills them."""
        return self.count >= ALONE_AFTER or self._suspicions >= ALONE_AFTER_TOOLS

    def forgives(self, evidence: Evidence) -> bool:
        """Tell whether an attempt died with a server that others shared; count it then."""
        if evidence.stopped != "crash" or evidence.alone or self.alone:
            return False
        self.count += 1
        self._suspicions += evidence.tools_ran
        return True
