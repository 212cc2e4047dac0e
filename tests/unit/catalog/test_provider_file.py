"""`providers.toml`: its form, and where an error says that something stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from chutes_opencode.catalog.provider_file import read_entries
from chutes_opencode.errors import ConfigurationError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "providers.toml"


def test_each_table_is_an_entry(path: Path) -> None:
    path.write_text(
        "# mine\n[providers.one]\nbaseUrl = 'https://one.example'\nlocal = true\n\n"
        "[providers.'two.b']\nkey_env = [\n  'TWO_KEY',\n]\n"
    )

    one, two = read_entries(path)

    assert (one.id, one.source) == ("one", f"{path}:2")
    assert dict(one.values) == {"base_url": "https://one.example", "local": True}
    assert one.field_place("base_url") == f"{path}:3: providers.one.baseUrl"
    assert one.field_place("wire") == f"{path}:2: providers.one.wire"
    assert (two.id, dict(two.values)) == ("two.b", {"key_env": ["TWO_KEY"]})
    assert two.field_place("key_env") == f"{path}:7: providers.two.b.key_env"


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "[providers]\n"])
def test_an_empty_file_has_no_entry(path: Path, text: str) -> None:
    path.write_text(text)

    assert read_entries(path) == ()


@pytest.mark.parametrize(
    ("text", "flaw"),
    [
        ("\n[provider.x]\n", ":2: provider: unknown table; did you mean providers?"),
        ("id = 'x'", ":1: id: unknown table"),
        ("providers = 3", ":1: providers: should be a table"),
        ("[[providers]]\nid = 'x'", ":1: providers: should be a table"),
        ("[providers]\n\nx = 'https://x'", ":3: providers.x: should be a table"),
        (
            "[providers.x]\nkey_url = 'a'\nkeyUrl = 'b'",
            ":3: providers.x.keyUrl: set twice in this file",
        ),
        ("[providers.x]\nname = \n", ":2: not TOML: Invalid value (at line 2, column 8)"),
    ],
)
def test_another_form_is_refused_by_file_line_and_key(path: Path, text: str, flaw: str) -> None:
    path.write_text(text)

    with pytest.raises(ConfigurationError) as caught:
        read_entries(path)

    assert caught.value.raw_message == f"{path}{flaw}"


def test_a_file_that_is_not_there_is_refused(path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_entries(path)

    assert caught.value.raw_message == f"{path}: no such file"
