"""`run.json`: what a run was begun with, and what must stay the same when it is resumed."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode.batch.durable import StoreError
from chutes_opencode.batch.store.manifest import (
    Manifest,
    differences,
    new_run_id,
    read_manifest,
    resumed,
    write_manifest,
)

FULL = Manifest(
    run_id="20260101-000000-abcdef",
    created_at=1_767_225_600.5,
    resumed_at=(1.0, 2.0),
    package_version="0.1.0",
    opencode_version="1.2.3",
    dataset={"source": "items.jsonl", "items": 3, "hash": "ff", "format": "jsonl"},
    settings={"provider": "chutes", "models": ["m"], "params": {"seed": 1}},
    prices={"m": {"input": 0.1, "output": 0.4, "cache_read": 0.0}},
    finished_at=9.0,
)


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_manifest(tmp_path, FULL)

    assert read_manifest(tmp_path) == FULL
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_no_manifest_is_none(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None


def test_no_secret_stands_in_it(tmp_path: Path) -> None:
    key = "cpk_0123456789abcdef.key"

    write_manifest(tmp_path, replace(FULL, settings={"system_message": f"use {key}"}))

    assert key not in (tmp_path / "run.json").read_text()


def test_fields_of_later_versions_are_left_out(tmp_path: Path) -> None:
    write_manifest(tmp_path, FULL)
    path = tmp_path / "run.json"
    path.write_text(path.read_text().replace('"run_id"', '"colour": "red", "run_id"'))

    assert read_manifest(tmp_path) == FULL


@pytest.mark.parametrize(
    ("text", "words", "hint"),
    [
        ('{"format": 2, "run_id": "x"}', "has format 2; .* knows 1", "Upgrade"),
        ('{"format": "x"}', "has format 'x'", "new run"),
        ("", "is damaged", "from a copy"),
        ('{"format": 1', "is damaged", "from a copy"),
        ("[]", "is damaged", "from a copy"),
        ("{}", "is damaged: 'format'", "from a copy"),
        ('{"format": 1}', "is damaged: .*run_id", "from a copy"),
        ('{"format": 1, "run_id": 7, "created_at": 1}', "run_id should be", "from a copy"),
        ('{"format": 1, "run_id": "x", "created_at": 1, "dataset": 3}', "dataset", "from a copy"),
        ('{"format": 1, "run_id": "x", "created_at": 1, "resumed_at": 3}', "damaged", "a copy"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_a_clear_error(
    tmp_path: Path, text: str, words: str, hint: str
) -> None:
    (tmp_path / "run.json").write_text(text)

    with pytest.raises(StoreError, match=words) as caught:
        read_manifest(tmp_path)

    assert str(tmp_path / "run.json") in caught.value.raw_message
    assert hint in caught.value.hint


def test_a_run_that_is_resumed_is_the_old_one_with_what_is_in_force_now() -> None:
    new = Manifest("other", 5.0, package_version="0.2.0", dataset={"items": 4})

    assert resumed(FULL, new) == replace(
        new, run_id=FULL.run_id, created_at=FULL.created_at, resumed_at=(1.0, 2.0, 5.0)
    )


@pytest.mark.parametrize(
    ("before", "now", "found"),
    [
        ({}, {}, []),
        ({"params": {"seed": 1}}, {"params": {"seed": 1}}, []),
        ({"tools": ("a",)}, {"tools": ["a"]}, []),
        ({"params": {}}, {"params": {"seed": 1}}, ['params: {} → {"seed":1}']),
        ({"model": "a"}, {"model": "b"}, ['model: "a" → "b"']),
        ({"system_message": "x" * 99}, {}, [f'system_message: "{"x" * 59}… → null']),
        ({"provider": "a", "tools": []}, {"provider": "b", "tools": ["t"]}, 2),
        ({"base_url": "https://a/v1"}, {"base_url": "https://b/v1"}, 1),
        ({"base_url": "http://127.0.0.1:1/v1"}, {"base_url": "http://127.0.0.1:2/v1"}, []),
        ({"base_url": "http://127.0.0.1:1/v1"}, {"base_url": "https://a/v1"}, 1),
        ({"limit": 3, "models": ["a"], "engine": "run", "shuffle": 1}, {"limit": 9}, []),
    ],
)
def test_only_settings_that_change_answers_are_differences(
    before: dict[str, Any], now: dict[str, Any], found: list[str] | int
) -> None:
    told = differences(replace(FULL, settings=before), replace(FULL, settings=now))

    assert (len(told) if isinstance(found, int) else told) == found


def test_a_run_id_tells_its_time_and_is_unique() -> None:
    first, second = new_run_id(1_767_225_600.0), new_run_id(1_767_225_600.0)

    assert re.fullmatch(r"20260101-000000-[0-9a-f]{6}", first)
    assert first != second
