"""What a prompt may still use, over all its attempts. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from chutes_opencode.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class RequestBudget:
    """How many model requests a prompt may send, and how many it has sent.

    Attributes:
        max_requests: Over all attempts and sub-agents.
        used: Requests that were sent, the failed ones included: the provider may bill them.
    """

    max_requests: int
    used: int = 0

    def __post_init__(self) -> None:
        """Refuse a budget that allows nothing.

        Raises:
            ConfigurationError: Less than one request.
        """
        if self.max_requests < 1:
            raise ConfigurationError(
                raw_message=f"max_requests must be at least 1, not {self.max_requests}"
            )

    @property
    def remaining(self) -> int:
        """Requests that the next attempt may send, 0 at least."""
        return max(self.max_requests - self.used, 0)

    @property
    def exhausted(self) -> bool:
        """Whether not one more request may be sent."""
        return self.remaining == 0

    def spend(self, requests: int) -> RequestBudget:
        """Return the budget after `requests` more were sent.

        Args:
            requests: At least 0; more than `remaining` is taken as it is: they were sent.
        """
        return replace(self, used=self.used + requests)
