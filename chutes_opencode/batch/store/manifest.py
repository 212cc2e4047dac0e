"""`run.json`: what a run was begun with. No secret stands in it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import orjson

from chutes_opencode.addresses import is_loopback
from chutes_opencode.batch.durable import StoreError, storing, write_whole
from chutes_opencode.batch.store.record_json import masked

NAME = "run.json"
FORMAT = 1

# Settings that change the answers of all items alike. What changes an item's own question (the
# template, the columns) is in its content hash, a named model is in its key; the rest changes none.
ANSWER_SETTINGS = (
    "provider",
    "base_url",
    "model",
    "system_message",
    "params",
    "builtin_tools",
    "permission",
    "tools",
    "output_schema",
)
_SHOWN = 60
_ON_THIS_MACHINE = "this machine"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a run was begun with.

    Attributes:
        run_id: Names the run among others.
        created_at: Seconds since the epoch.
        resumed_at: When it was resumed, each time.
        package_version: Of chutes-opencode.
        opencode_version: "" if it is not known.
        dataset: source, items, hash, format.
        settings: By name, without secrets; those of `ANSWER_SETTINGS` must stay the same when the
            run is resumed. `model` is the instance's: it answers tasks that name none.
        prices: By model: input, output and cache_read, US dollars for a million tokens.
        finished_at: None: it is not at its end.
        format: Of the folder.
    """

    run_id: str
    created_at: float
    resumed_at: tuple[float, ...] = ()
    package_version: str = ""
    opencode_version: str = ""
    dataset: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    prices: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    finished_at: float | None = None
    format: int = FORMAT


_FIELDS = tuple(each.name for each in fields(Manifest))


def new_run_id(at: float) -> str:
    """Return a name for a run that begins at `at`, seconds since the epoch."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(at))}-{secrets.token_hex(3)}"


def read_manifest(folder: Path) -> Manifest | None:
    """Return the manifest of a run's folder, None if there is none.

    Raises:
        StoreError: It cannot be read: damaged, of a newer version, or the system refuses.
    """
    path = folder / NAME
    with storing(path):
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
    return parse_manifest(data, str(path))


def parse_manifest(data: bytes, name: str) -> Manifest:
    """Return the manifest that a file or an object holds.

    Args:
        data: What it holds.
        name: What it is called in an error.

    Raises:
        StoreError: It is damaged, or of another version.
    """
    try:
        values = orjson.loads(data)
        if values["format"] != FORMAT:
            raise _other_format(name, values["format"])
        known = {name: values[name] for name in _FIELDS if name in values}
        manifest = Manifest(**{**known, "resumed_at": tuple(known.get("resumed_at", ()))})
        _check(manifest)
    except (ValueError, TypeError, KeyError) as error:
        raise StoreError(
            raw_message=f"{name} is damaged: {error}",
            hint="Put the file back from a copy, or begin a new run in another folder.",
        ) from error
    return manifest


def _check(manifest: Manifest) -> None:
    for name in ("dataset", "settings", "prices"):
        if not isinstance(getattr(manifest, name), dict):
            raise ValueError(f"its {name} should be an object")
    if not isinstance(manifest.run_id, str):
        raise ValueError("its run_id should be a text")


def _other_format(name: str, found: object) -> StoreError:
    newer = isinstance(found, int) and found > FORMAT
    return StoreError(
        raw_message=f"{name} has format {found!r}; this version of chutes-opencode knows {FORMAT}",
        hint="Upgrade chutes-opencode." if newer else "Begin a new run in another folder.",
    )


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest whole, secrets masked.

    Raises:
        StoreError: It cannot be written.
    """
    values = {name: masked(getattr(manifest, name)) for name in _FIELDS}
    option = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    write_whole(folder / NAME, orjson.dumps(values, option=option))


def resumed(old: Manifest, new: Manifest) -> Manifest:
    """Return what stands in `run.json` from now on: the old run, with what is in force now.

    Args:
        old: As it stood there.
        new: Of this session; its `created_at` is when it began.
    """
    return replace(
        new,
        run_id=old.run_id,
        created_at=old.created_at,
        resumed_at=(*old.resumed_at, new.created_at),
        finished_at=None,
    )


def differences(old: Manifest, new: Manifest) -> list[str]:
    """Return the settings that would change answers, a phrase each: `params: {} → {"seed": 1}`."""
    before, now = _comparable(old), _comparable(new)
    return [
        f"{name}: {_shown(before[name])} → {_shown(now[name])}"
        for name in ANSWER_SETTINGS
        if before[name] != now[name]
    ]


def _comparable(manifest: Manifest) -> dict[str, Any]:
    values = {name: masked(manifest.settings.get(name)) for name in ANSWER_SETTINGS}
    url = values["base_url"]
    if isinstance(url, str) and is_loopback(url):  # a simulator has another port each time
        values["base_url"] = _ON_THIS_MACHINE
    return values


def _shown(value: Any) -> str:
    text = orjson.dumps(value).decode()
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
