"""URLs of providers: one form, and whom they belong to. Pure."""

from __future__ import annotations

import re
from ipaddress import ip_address
from urllib.parse import urlsplit, urlunsplit


def normalise_url(url: str) -> str:
    """Return `url` without white space around it and without a slash at its end.

    Raises:
        ValueError: It is no http(s) URL that a path can be added to.
    """
    text = url.strip()
    if re.search(r"[\s\\\x00-\x1f\x7f]", text):
        raise ValueError("should be a URL without white space or backslashes")
    parts = urlsplit(text)
    _ = parts.port  # raises ValueError when it is no number
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("should be a URL like https://host/v1")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("should be a URL without user name, query or fragment")
    return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))


def is_loopback(url: str) -> bool:
    """Tell whether `url` is on this machine, by its literal host."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def same_host(url: str, other: str) -> bool:
    """Tell whether both have the same scheme, host and port."""

    def host(text: str) -> tuple[str, str | None, int]:
        parts = urlsplit(text)
        return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)

    return host(url) == host(other)


def server_root(url: str) -> str:
    """Return `url` without its path."""
    return urlunsplit((*urlsplit(url)[:2], "", "", ""))
