"""What the engines' benchmark prints and writes."""

from __future__ import annotations

import json

import pytest

from scripts.engine_bench.figures import Floor, Round, Spread
from scripts.engine_bench.report import Results, as_json, as_text, floor_lines
from scripts.engine_bench.soak import Sample, Soak, soak_text

SEED = Round(1, 4.0, (4.0,), cpu_seconds=4.0, peak_mib=600.0)
SERVE = Round(16, 2.0, (0.5,) * 64, 4.8, 0.64, 0.1, peak_mib=800.0, errors=("7: lost",))


@pytest.fixture
def results() -> Results:
    floor = Floor("serve / raw", Spread(0.85, 0.8, 0.91), 0.9, "least", "×")
    return Results(
        {"opencode": "1.18.33"},
        {("serve", 16): [SERVE], ("seed", 1): [SEED]},
        [floor],
        {"direct": "3: ConfigurationError"},
    )


def test_the_table_has_a_row_for_each_way(results: Results) -> None:
    lines = as_text(results).splitlines()

    rows = {line[:20].strip(): line[20:].split() for line in lines}
    assert rows["seed's way"] == ["1", "0.25", "1.0", "4000", "4000", "4000.0", "0.0", "600", "600"]
    assert rows["serve"] == ["16", "31.5", "126.0", "500", "500", "75.0", "10.0", "50", "800"]


def test_cpu_time_is_compared_as_the_rates_are(results: Results) -> None:
    lines = [" ".join(line.split()) for line in as_text(results).splitlines()]

    (line,) = (line for line in lines if line.startswith("serve, tools denied / seed's way"))
    assert line.endswith("0.019 (0.019 to 0.019)")  # 75 ms to 4 s


def test_what_is_missing_or_wrong_is_told(results: Results) -> None:
    text = as_text(results)

    assert "direct: not measured: 3: ConfigurationError" in text
    assert "1 prompts without the right answer:\nserve, 16 at once: 7: lost" in text


@pytest.mark.parametrize(
    ("floor", "line"),
    [
        (
            Floor("a", Spread(54.04, 50.1, 60.0), 50.0, "least", "×"),
            "a 54.0 (50.1 to 60.0) at least 50.0 ok",
        ),
        (
            Floor("a", Spread(0.85, 0.8, 0.91), 0.9, "least", "×"),
            "a 0.85 (0.80 to 0.91) at least 0.90 NOT MET",
        ),
        (
            Floor("a", Spread(0.97, 0.97, 0.97), 0.95, "least", "%"),
            "a 97.0% (97.0% to 97.0%) at least 95.0% ok",
        ),
        (
            Floor("a", Spread(0.012, -0.001, 0.02), 0.01, "most", "ms"),
            "a +12.0 ms (-1.0 ms to +20.0 ms) at most +10.0 ms NOT MET",
        ),
    ],
)
def test_a_floor_is_printed_beside_what_was_seen(floor: Floor, line: str) -> None:
    (printed,) = floor_lines([floor])

    assert " ".join(printed.split()) == line


def test_json_holds_every_round(results: Results) -> None:
    written = json.loads(json.dumps(as_json(results)))

    assert [row["way"] for row in written["ways"]] == ["seed", "serve"]
    assert written["ways"][1]["times_seed"]["median"] == 126.0
    assert written["ways"][1]["rounds"][0]["latencies"] == [0.5] * 64
    assert written["floors"][0]["met"] is False
    assert written["missing"] == {"direct": "3: ConfigurationError"}


def test_a_ratio_to_the_seeds_way_needs_the_seeds_way() -> None:
    alone = Results({}, {("serve", 16): [SERVE]}, [])

    assert as_json(alone)["ways"][0]["times_seed"] is None
    assert "126.0" not in as_text(alone)


def test_a_soak_tells_what_has_grown_and_what_is_left() -> None:
    samples = [Sample(100 * n, 30.0, 0.9, 700 + n, 90.0 + n, 40, 50 + n, 1, 0) for n in range(1, 9)]
    soak = Soak(3, tuple(samples), ("5: lost",))

    lines = soak_text(soak).splitlines()

    assert lines[0] == "16 at once; the list of models changed 3 times"
    assert lines[2].split() == ["100", "30.0", "0.90", "701", "40", "91", "51", "1", "0"]
    assert "from a quarter on, ours has grown by +5 MiB, +5 descriptors" in lines
    assert lines[-2:] == ["lost: 1; sessions left: 0", "5: lost"]
