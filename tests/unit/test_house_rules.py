"""Rules of the house that no linter knows."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("chutes_opencode", "configs", "scripts", "tests")
MAX_LINES = 400


def source_files() -> list[Path]:
    suffixes = (".py", ".js", ".ts", ".tsx")
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")]
    return [path for path in found if path.suffix in suffixes]


def test_no_file_is_longer_than_400_lines() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in source_files()
    }

    assert len(lengths) > 50
    assert {name: count for name, count in lengths.items() if count > MAX_LINES} == {}
