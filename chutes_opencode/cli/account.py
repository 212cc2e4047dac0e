"""Ask the management API whether it accepts the key; the key goes to no other host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import httpx

    from chutes_opencode.settings import Settings

ANSWER_SECONDS = 10.0

Verdict = Literal["accepted", "refused", "unknown"]


@dataclass(frozen=True)
class KeyCheck:
    """What became of the question.

    Attributes:
        verdict: "unknown" when there is nobody to ask or the answer says nothing.
        detail: One clause that says why.
    """

    verdict: Verdict
    detail: str


def check_key(settings: Settings, *, transport: httpx.BaseTransport | None = None) -> KeyCheck:
    """Ask `GET <management_url>/users/me`; only Chutes itself and this machine are asked.

    Args:
        settings: With a key.
        transport: How to send; None: the network.

    Raises:
        AuthenticationError: There is no key, or it is malformed: nothing was sent.
    """
    import httpx

    token = settings.require_token()
    if settings.management_url is None or not (settings.is_chutes or settings.is_loopback):
        return KeyCheck("unknown", f"not asked: {settings.base_url} is not Chutes")
    url = f"{settings.management_url}/users/me"
    # No redirects: they could carry the key elsewhere. No proxy between us and this machine.
    with httpx.Client(
        timeout=ANSWER_SECONDS,
        trust_env=not settings.is_loopback,
        follow_redirects=False,
        transport=transport,
    ) as client:
        try:
            answer = client.get(url, headers={"Authorization": f"Bearer {token}"})
        except httpx.HTTPError as error:
            return KeyCheck("unknown", f"{url} cannot be asked: {type(error).__name__} {error}")
    if answer.status_code == httpx.codes.OK:
        return KeyCheck("accepted", f"accepted by {settings.management_url}")
    if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        return KeyCheck("refused", f"refused by {url} (HTTP {answer.status_code})")
    return KeyCheck("unknown", f"{url} answered HTTP {answer.status_code}")
