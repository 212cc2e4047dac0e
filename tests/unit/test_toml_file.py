"""TOML files: what they hold, and on which line."""

from __future__ import annotations

from pathlib import Path

import pytest

from chutes_opencode.errors import ConfigurationError
from chutes_opencode.toml_file import read_toml, snake_case

TEXT = """\
# a comment
a = 1
list = [
  1,  # [not.a.table]
  2,
]

[providers."x.y"]
text = '''
[providers.z]
b = 1
'''
dotted.key = 2
[[rows]]
q = 1
[[rows]]
q = 2
[providers]
"z" = { wire = "a" }
empty = []
"""


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (("a",), 2),
        (("list",), 3),
        (("providers",), 8),
        (("providers", "x.y"), 8),
        (("providers", "x.y", "text"), 9),
        (("providers", "x.y", "dotted"), 13),
        (("providers", "x.y", "dotted", "key"), 13),
        (("rows",), 14),
        (("rows", "q"), 15),
        (("providers", "z"), 19),
        (("providers", "z", "wire"), 19),
        (("providers", "empty"), 20),
    ],
)
def test_the_line_of_a_key_is_found_in_every_spelling(
    tmp_path: Path, keys: tuple[str, ...], line: int
) -> None:
    path = tmp_path / "f.toml"
    path.write_text(TEXT)

    assert read_toml(path).place(*keys) == f"{path}:{line}"


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_line_separators_of_other_alphabets_end_no_line(tmp_path: Path, ending: str) -> None:
    path = tmp_path / "f.toml"
    path.write_bytes(ending.join(['a = "x\u2028y\x85z"', "b = 1"]).encode())

    file = read_toml(path)

    assert (file.values["b"], file.place("b")) == (1, f"{path}:2")


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "f.toml"
    path.write_bytes(b"\xef\xbb\xbfa = 1")

    assert read_toml(path).values == {"a": 1}


@pytest.mark.parametrize(
    ("content", "flaw"),
    [
        (b"a = 1\nb =", ":2: not TOML: Invalid value"),
        (b"a = '", ":1: not TOML: "),
        (b"\xff", ": cannot be read: is not UTF-8"),
    ],
)
def test_what_is_no_toml_is_refused_by_line(tmp_path: Path, content: bytes, flaw: str) -> None:
    path = tmp_path / "f.toml"
    path.write_bytes(content)

    with pytest.raises(ConfigurationError) as caught:
        read_toml(path)

    assert caught.value.raw_message.startswith(f"{path}{flaw}")


def test_a_folder_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="Is a directory"):
        read_toml(tmp_path)


@pytest.mark.parametrize(
    ("name", "field"), [("baseUrl", "base_url"), ("base_url", "base_url"), ("keyURL", "key_url")]
)
def test_fields_may_be_written_in_camel_case(name: str, field: str) -> None:
    assert snake_case(name) == field
