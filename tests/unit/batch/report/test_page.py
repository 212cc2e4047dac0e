"""The page: one file that says what the run came to, and that nothing can break out of."""

from __future__ import annotations

import base64
import hashlib
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from chutes_opencode.batch.durable import StoreError
from chutes_opencode.batch.record import Record
from chutes_opencode.batch.report.page import joined_script, write_report
from chutes_opencode.errors import ConfigurationError
from tests.unit.batch.report.sample_run import EVIL, failure, record, write_run

OUTSIDE = re.compile(r"https?://")


class Outline(HTMLParser):
    """What a page is made of."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.ids: list[str] = []
        self.words = ""
        self._script = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self._script = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._script = False

    def handle_data(self, data: str) -> None:
        if not self._script:
            self.words += data + " "


def page_of(run: Path) -> str:
    return write_report(run).read_text(encoding="utf-8")


def words_of(run: Path) -> str:
    return " ".join(Outline(page_of(run)).words.split())


def test_it_says_what_the_run_came_to(tmp_path: Path) -> None:
    records = [record(0), record(1), failure(2, "ServerError")]
    run = write_run(tmp_path / "run", records, attempts=[record(3, status="cut", cost_usd=1.0)])

    words = words_of(run)

    assert "20251121-120000-a1b2c3 broken off" in words
    assert "Done 2 50 % Failed 1 25 % Left 1 of 4" in words
    assert "Spent $1.03 $1.01 in vain" in words
    assert "Tokens in 480 80 from cache Tokens out 200" in words
    assert "ServerError of 2" in words
    assert "HTTP 429" in words
    assert "Cached input big/model $0.40 $1.75 $0.20" in words


def test_it_is_one_file_that_asks_nobody(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [record(0), failure(1)])

    outline = Outline(page_of(run))

    sources = [(name, value) for name, value in outline.attributes if name in ("src", "href")]
    assert all(value and value.startswith(("#", "data:,")) for _, value in sources)
    assert not any(OUTSIDE.search(value or "") for _, value in outline.attributes)
    assert [path.name for path in run.iterdir() if path.name.startswith((".", "report"))] == [
        "report.html"
    ]


def test_only_its_own_script_may_run(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "run", [record(0)]))

    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    script = re.search(r'<script type="module">(.*?)</script>', page, re.DOTALL)

    assert policy is not None
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}' blob:;" in policy[1].replace("&#x27;", "'")
    assert "default-src 'none'" in policy[1]


def test_what_models_and_users_wrote_breaks_out_of_nothing(tmp_path: Path) -> None:
    harmless = write_run(tmp_path / "a", [record(0), failure(1, "ServerError")])
    evil = write_run(
        tmp_path / "b",
        [
            record(0, id=EVIL, model=EVIL, result=EVIL),
            failure(1, EVIL, id=EVIL, model=EVIL),
        ],
        run_id=EVIL,
        settings={"system_message": EVIL, EVIL: [EVIL, {EVIL: EVIL}], "model": EVIL},
        prices={EVIL: {"input": 1.0}},
        dataset={"source": EVIL},
    )

    page = page_of(evil)

    assert EVIL not in page
    assert "<img" not in page
    usual = set(Outline(page_of(harmless)).tags)
    assert set(Outline(page).tags) <= usual | {"pre"}


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ([], ["Nothing has a result yet.", "Nothing was measured yet.", "Wall time –"]),
        ([record(0)], ["Nothing has failed.", "1 prompt ended", "p50 2.0 s"]),
        ([failure(0), failure(1)], ["Failed 2 50 %", "Failures only", "p50 –"]),
        ([record(0, cost_usd=None)], ["Spent unknown no price is known", "No item has a cost."]),
        ([record(0, cost_usd=None), record(1)], ["Spent ≥ $0.010 1 prompt without a price"]),
        ([record(0, first_token_s=None)], ["Latency", "Half within 2.0 s"]),
    ],
)
def test_odd_runs_read_right(tmp_path: Path, records: list[Record], said: list[str]) -> None:
    run = write_run(tmp_path / "run", records)

    words = words_of(run)

    assert [each for each in said if each not in words] == []


def test_a_transcript_that_was_lost_is_no_reason_to_have_no_report(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [record(0)], prompts={"item-000": "Why?"})
    (run / "transcripts" / "0001.jsonl").write_bytes(b"gone")

    assert "Done 1" in words_of(run)


def test_it_goes_where_it_is_told_to(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [])

    assert write_report(run, tmp_path / "there.html") == tmp_path / "there.html"
    assert not (run / "report.html").exists()


@pytest.mark.parametrize("name", ["run/results.jsonl", "run/run.json", "prompts.jsonl"])
def test_only_a_report_is_replaced(tmp_path: Path, name: str) -> None:
    run = write_run(tmp_path / "run", [record(0)])
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Why?"}\n')
    before = (tmp_path / name).read_bytes()

    with pytest.raises(ConfigurationError, match="is no report"):
        write_report(run, tmp_path / name)

    assert (tmp_path / name).read_bytes() == before
    write_report(run)
    write_report(run)


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no run"):
        write_report(tmp_path)


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [])

    with pytest.raises(StoreError, match="nowhere"):
        write_report(run, tmp_path / "nowhere" / "report.html")


def test_without_plotly_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    monkeypatch.setitem(sys.modules, "plotly", None)

    with pytest.raises(ConfigurationError) as raised:
        write_report(tmp_path)
    assert raised.value.hint == "pip install 'chutes-opencode[report]'"


def test_the_joined_modules_import_and_export_nothing() -> None:
    assert re.findall(r"^(?:import|export)\b", joined_script(), re.MULTILINE) == []
