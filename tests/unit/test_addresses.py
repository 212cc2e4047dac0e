"""URLs: one form, and whom they belong to."""

from __future__ import annotations

import pytest

from chutes_opencode.addresses import is_loopback, normalise_url, same_host, server_root


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("https://llm.chutes.ai/v1/", "https://llm.chutes.ai/v1"),
        (" https://llm.chutes.ai/v1\n", "https://llm.chutes.ai/v1"),
        ("HTTP://127.0.0.1:80/", "http://127.0.0.1:80"),
        ("http://[::1]:8080/v1//", "http://[::1]:8080/v1"),
    ],
)
def test_a_url_is_brought_into_one_form(url: str, normal: str) -> None:
    assert normalise_url(url) == normal


@pytest.mark.parametrize(
    "url",
    [
        "",
        "llm.chutes.ai/v1",
        "ftp://host/v1",
        "https:///v1",
        "https://host:port/v1",
        "https://host/v 1",
        "https://host\n.evil/v1",
        "https://user@host/v1",
        "https://evil.example\\@127.0.0.1/v1",
        "https://host/v1?key=1",
        "https://host/v1#part",
        "http://[::1/v1",
    ],
)
def test_what_is_no_usable_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        normalise_url(url)


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://127.0.0.1:1/v1", True),
        ("http://127.8.9.1", True),
        ("http://LOCALHOST/v1", True),
        ("http://[::1]:5", True),
        ("http://127.0.0.1.evil.example/v1", False),
        ("http://192.168.0.1", False),
        ("https://llm.chutes.ai", False),
        ("nothing", False),
    ],
)
def test_only_literal_loopback_hosts_are_this_machine(url: str, here: bool) -> None:
    assert is_loopback(url) is here


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("https://llm.chutes.ai/v1", "https://LLM.chutes.ai:443/x", True),
        ("http://host", "http://host:80", True),
        ("http://host", "https://host", False),
        ("https://llm.chutes.ai", "https://my-chute.chutes.ai", False),
        ("http://host:81", "http://host:82", False),
    ],
)
def test_hosts_are_the_same_by_scheme_name_and_port(one: str, other: str, same: bool) -> None:
    assert same_host(one, other) is same


def test_the_root_of_a_server_has_no_path() -> None:
    assert server_root("http://127.0.0.1:80/v1") == "http://127.0.0.1:80"
