"""Waiting tasks come back when their time has come and their model takes them."""

from __future__ import annotations

from chutes_opencode.batch.item import BatchItem, Task
from chutes_opencode.batch.running.parking import Parking, Work


def work(name: str, model: str = "m", until: float = 0.0) -> Work:
    return Work(Task(BatchItem(name), model), until=until)


def parked(*works: Work) -> Parking:
    parking = Parking()
    for each in works:
        parking.put(each)
    return parking


def names(parking: Parking, now: float, *closed: str) -> list[str]:
    found = []
    while taken := parking.take(now, lambda model: model not in closed):
        found.append(taken.task.item.id)
    return found


def test_what_waits_longest_goes_first_and_nothing_too_soon() -> None:
    parking = parked(
        work("b", until=2), work("c", until=3), work("a", until=1), work("a2", until=1)
    )

    assert names(parking, now=0) == []
    assert names(parking, now=2) == ["a", "a2", "b"]
    assert len(parking) == 1


def test_a_closed_model_holds_up_its_own_tasks_only() -> None:
    parking = parked(work("1", "cold"), work("2", "warm"), work("3", "cold"))

    assert names(parking, 0, "cold") == ["2"]
    assert names(parking, 0) == ["1", "3"]


def test_a_model_that_is_gone_takes_its_tasks_along() -> None:
    parking = parked(work("1", "gone"), work("2"), work("3", "gone"))

    assert parking.drop("gone") == 2
    assert parking.drop("unknown") == 0
    assert names(parking, 0) == ["2"]
