"""What of the caller's environment an opencode process, and so its agent's tools, may have.

A list of what is let through, so that a new provider's key in the caller's shell stays out by
itself. HOME, TMPDIR and XDG_* are not on it: they are the workspace's. The folders behind HOME
are lost with it, so the caller's git name and mail come along as `GIT_CONFIG_*`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

PASSED = frozenset(
    {
        "PATH",
        "LANG",
        "LANGUAGE",
        "TERM",
        "COLORTERM",
        "TZ",
        "USER",
        "LOGNAME",
        "SHELL",
        # Certificates of a company's proxy: without them every HTTPS call fails.
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "NODE_EXTRA_CA_CERTS",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "GIT_SSL_CAINFO",
        # Some Pythons and systems start no program without them.
        "LD_LIBRARY_PATH",
        "DYLD_LIBRARY_PATH",
    }
)
PASSED_PREFIXES = ("LC_",)
PROXIES = frozenset({"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"})
# CIDR forms do not match in opencode (OPENCODE.md), so the addresses are spelled out.
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")

_SECTION = re.compile(r"\s*\[\s*(\w+)\s*\]")
_IDENTITY = re.compile(r"\s*(name|email)\s*=\s*(.*)", re.IGNORECASE)
_VALUE = re.compile(r'"((?:[^"\\]|\\.)*)"|([^"#;]+)')


def is_passed_on(name: str) -> bool:
    """Tell whether a variable of the caller's reaches opencode and its agent's tools."""
    return name in PASSED or name.startswith(PASSED_PREFIXES) or name.upper() in PROXIES


def child_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables to pass on.

    `NO_PROXY` and `no_proxy` always hold the loopback addresses: with a proxy set, opencode sends
    it even its calls to 127.0.0.1, prompts included.
    """
    passed = {name: value for name, value in environ.items() if is_passed_on(name)}
    no_proxy = _no_proxy(environ)
    return passed | {"NO_PROXY": no_proxy, "no_proxy": no_proxy} | _git_variables(environ)


def without_keys(environ: Mapping[str, str]) -> dict[str, str]:
    """Return all variables but our own, opencode's, and those that hold a model provider's key."""
    return {
        name: value
        for name, value in environ.items()
        if not name.startswith(("CHUTES_", "OPENCODE_")) and not name.endswith("_API_KEY")
    }


def _no_proxy(environ: Mapping[str, str]) -> str:
    """Join both spellings: programs differ in which they read first."""
    given = f"{environ.get('NO_PROXY', '')},{environ.get('no_proxy', '')}".split(",")
    hosts = [host.strip() for host in given if host.strip()]
    if "*" in hosts:
        return "*"  # some programs know it only when it stands alone
    return ",".join(dict.fromkeys([*hosts, *LOOPBACK_HOSTS]))


def _git_variables(environ: Mapping[str, str]) -> dict[str, str]:
    identity = git_identity(environ)
    variables = {"GIT_CONFIG_COUNT": str(len(identity))} if identity else {}
    for number, (key, value) in enumerate(identity.items()):
        variables |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return variables


def git_identity(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the caller's `user.name` and `user.email`, as far as they are known.

    Read from `GIT_AUTHOR_*`, `GIT_COMMITTER_*` and git's global config files, without their
    includes: asking git itself would cost a process.
    """
    found: dict[str, str] = {}
    for path in _git_config_files(environ):
        try:
            found.update(parse_git_identity(path.read_text(encoding="utf-8", errors="replace")))
        except OSError:
            continue
    for key in ("name", "email"):
        for role in ("COMMITTER", "AUTHOR"):
            value = environ.get(f"GIT_{role}_{key.upper()}")
            found |= {f"user.{key}": value} if value else {}
    return found


def _git_config_files(environ: Mapping[str, str]) -> Iterator[Path]:
    """Yield git's global files, the strongest last."""
    if environ.get("GIT_CONFIG_GLOBAL"):
        yield Path(environ["GIT_CONFIG_GLOBAL"])
    elif environ.get("HOME"):
        config = environ.get("XDG_CONFIG_HOME") or f"{environ['HOME']}/.config"
        yield Path(config, "git", "config")
        yield Path(environ["HOME"], ".gitconfig")


def parse_git_identity(text: str) -> dict[str, str]:
    """Return name and email of the `[user]` sections of a git config file; the last one counts."""
    found: dict[str, str] = {}
    section = ""
    for line in text.splitlines():
        if line.lstrip().startswith("["):
            named = _SECTION.match(line)
            section = named[1].lower() if named else ""
            line = line.partition("]")[2]
        entry = _IDENTITY.match(line)
        if section == "user" and entry:
            found[f"user.{entry[1].lower()}"] = _unquote(entry[2])
    return {key: value for key, value in found.items() if value}


def _unquote(value: str) -> str:
    """Return a git value without quotes and comment."""
    text = ""
    position = 0
    while part := _VALUE.match(value, position):
        text += re.sub(r"\\(.)", r"\1", part[1]) if part[1] is not None else part[2]
        position = part.end()
    return text.strip()
