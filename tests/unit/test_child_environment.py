"""What of the caller's environment reaches opencode and its tools."""

from __future__ import annotations

from pathlib import Path

import pytest

from chutes_opencode.child_environment import (
    child_environment,
    git_identity,
    parse_git_identity,
    without_keys,
)

LOOPBACK = "127.0.0.1,localhost,::1"


def test_only_the_listed_variables_pass() -> None:
    passed = {"PATH": "/bin", "LANG": "C", "LC_ALL": "C", "TZ": "UTC", "SSL_CERT_FILE": "/c.pem"}
    kept_back = {
        "CHUTES_API_TOKEN": "cpk_x",
        "OPENAI_API_KEY": "sk",
        "AWS_SECRET_ACCESS_KEY": "s",
        "OPENCODE_CONFIG": "/c",
        "CHUTES_OPENCODE_HOME": "/h",
        "HOME": "/none",
        "TMPDIR": "/t",
        "XDG_DATA_HOME": "/d",
        "NODE_OPTIONS": "--require x",
    }

    assert child_environment(passed | kept_back) == passed | {
        "NO_PROXY": LOOPBACK,
        "no_proxy": LOOPBACK,
    }


def test_an_installer_gets_all_but_our_settings_and_the_keys_of_model_providers() -> None:
    kept = {"HOME": "/h", "NPM_TOKEN": "n", "npm_config_registry": "http://127.0.0.1:1"}
    dropped = {"CHUTES_API_TOKEN": "c", "OPENCODE_BIN": "/b", "OPENAI_API_KEY": "sk"}

    assert without_keys(kept | dropped) == kept


def test_proxies_pass_in_both_spellings() -> None:
    proxies = {"HTTP_PROXY": "http://p:1", "https_proxy": "http://p:2", "all_proxy": "socks5://p"}

    assert proxies.items() <= child_environment(proxies).items()


@pytest.mark.parametrize(
    ("given", "no_proxy"),
    [
        ({}, LOOPBACK),
        ({"NO_PROXY": "a.example"}, f"a.example,{LOOPBACK}"),
        ({"no_proxy": "b.example, "}, f"b.example,{LOOPBACK}"),
        ({"NO_PROXY": "a", "no_proxy": "b,a"}, f"a,b,{LOOPBACK}"),
        ({"NO_PROXY": "localhost"}, "localhost,127.0.0.1,::1"),
        ({"NO_PROXY": "*"}, "*"),
    ],
)
def test_no_proxy_catches_loopback_calls(given: dict[str, str], no_proxy: str) -> None:
    built = child_environment(given)

    assert (built["NO_PROXY"], built["no_proxy"]) == (no_proxy, no_proxy)


def test_git_name_and_mail_come_along_as_git_config(tmp_path: Path) -> None:
    (tmp_path / ".gitconfig").write_text("[user]\n\tname = Ada L\n\temail = ada@example.org\n")

    built = child_environment({"HOME": str(tmp_path)})

    assert {name: value for name, value in built.items() if name.startswith("GIT_")} == {
        "GIT_CONFIG_COUNT": "2",
        "GIT_CONFIG_KEY_0": "user.name",
        "GIT_CONFIG_VALUE_0": "Ada L",
        "GIT_CONFIG_KEY_1": "user.email",
        "GIT_CONFIG_VALUE_1": "ada@example.org",
    }


def test_git_identity_comes_from_the_strongest_source(tmp_path: Path) -> None:
    (tmp_path / ".config" / "git").mkdir(parents=True)
    (tmp_path / ".config" / "git" / "config").write_text("[user]\nname=xdg\nemail=xdg@x\n")
    (tmp_path / ".gitconfig").write_text("[user]\nname=home\n")
    (tmp_path / "other").write_text("[user]\nname=other\n")
    home = {"HOME": str(tmp_path)}

    assert git_identity(home) == {"user.name": "home", "user.email": "xdg@x"}
    assert git_identity(home | {"GIT_CONFIG_GLOBAL": str(tmp_path / "other")}) == {
        "user.name": "other"
    }
    assert git_identity(
        home | {"GIT_COMMITTER_NAME": "c", "GIT_AUTHOR_NAME": "a", "GIT_COMMITTER_EMAIL": "c@x"}
    ) == {"user.name": "a", "user.email": "c@x"}
    assert git_identity({}) == {}


@pytest.mark.parametrize(
    ("text", "identity"),
    [
        ("", {}),
        ("[user]\n  Name = Ada # comment\n  EMAIL=a@x ; other", ("Ada", "a@x")),
        ('[user]\nname = "A \\"#1\\" B" x\nemail = "a@x"', ('A "#1" B x', "a@x")),
        ("[USER] name = A\nemail = a@x", ("A", "a@x")),
        ('[user "work"]\nname = no\n[user]\nname = A\nemail=a@x\n[core]\nname = no', ("A", "a@x")),
        ("[user]\nname = old\nname = A\n[user]\nemail = a@x\nsigningkey = k", ("A", "a@x")),
        ("[user]\nname =\n", {}),
        ("name = no section", {}),
    ],
)
def test_git_config_is_read_as_git_writes_it(
    text: str, identity: tuple[str, str] | dict[str, str]
) -> None:
    if isinstance(identity, tuple):
        identity = {"user.name": identity[0], "user.email": identity[1]}

    assert parse_git_identity(text) == identity
