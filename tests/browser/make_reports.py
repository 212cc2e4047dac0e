"""Writes the reports that the browser looks at: python make_reports.py FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from chutes_opencode.batch.report.page import write_report
from tests.unit.batch.report.sample_run import EVIL, failure, record, write_run

NUM_ITEMS = 120


def main(folder: Path) -> None:
    """Write a report of many items, one of hostile ones, and one of none."""
    many = [
        failure(n, "ServerError" if n % 8 else "RateLimitError") if n % 4 == 0 else record(n)
        for n in range(NUM_ITEMS)
    ]
    many[1] = record(1, model="", served_model="big/model")  # "": the run's own model
    many[2] = record(2, served_model="other/model")
    asked = {each.id: f"Question {n}, pineapple{n}?" for n, each in enumerate(many)}
    runs = {
        "many": write_run(folder / "many", many, prompts=asked, finished_at=1.0),
        "evil": write_run(
            folder / "evil",
            [record(0, id=EVIL, model=EVIL, result=EVIL), failure(1, EVIL, id=EVIL + "2")],
            prompts={EVIL: EVIL},
            run_id=EVIL,
            settings={"system_message": EVIL},
        ),
        "empty": write_run(folder / "empty", []),
    }
    for name, run in runs.items():
        print(write_report(run, folder / f"{name}.html"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
