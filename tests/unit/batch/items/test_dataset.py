"""A dataset is checked before anything is spent; its tasks are streamed in order or shuffled."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pandas as pd
import pytest

from chutes_opencode.batch.items import dataset as module
from chutes_opencode.batch.items.dataset import BadItemsError
from chutes_opencode.batch.items.lines import Layout
from chutes_opencode.errors import ConfigurationError
from tests.unit.batch.items.desk import Desk, ids, numbered

# --- tasks ----------------------------------------------------------------------------------------


def test_each_item_is_a_task(desk: Desk) -> None:
    dataset = desk.check(desk.file({"id": "a", "prompt": "x"}, {"prompt": "y"}))

    tasks = list(dataset.tasks())

    assert (dataset.count, dataset.task_count, dataset.bad_count) == (2, 2, 0)
    assert [(task.item.prompt, task.model, task.sample) for task in tasks] == [
        ("x", "", 0),
        ("y", "", 0),
    ]
    assert tasks[0].key == ("a", "", 0)
    assert dataset.columns == ("id", "prompt")
    assert list(dataset.tasks()) == tasks
    assert not desk.spool.exists()


def test_models_and_samples_multiply_and_stay_together_by_item(desk: Desk) -> None:
    rows = [{"id": "a", "prompt": "x"}, {"id": "b", "prompt": "y", "model": "own"}]

    dataset = desk.check(desk.file(*rows), models=["m", "n", "m"], samples=2)

    assert [task.key for task in dataset.tasks()] == [
        *(("a", "m", 0), ("a", "m", 1), ("a", "n", 0), ("a", "n", 1)),
        *(("b", "own", 0), ("b", "own", 1)),
    ]
    assert (dataset.count, dataset.task_count, dataset.models) == (2, 6, ("m", "n"))


@pytest.mark.parametrize("shuffle", [None, 3])
def test_tasks_are_counted_also_below_a_limit(desk: Desk, shuffle: int | None) -> None:
    rows = [{"id": n, "prompt": "p", **({"model": "own"} if n % 2 else {})} for n in range(9)]

    dataset = desk.check(desk.file(*rows), models=["m", "n"], shuffle=shuffle, limit=4)

    assert dataset.task_count == len(list(dataset.tasks()))
    assert dataset.count == 4


def test_lines_of_openai_are_taken_as_they_are(desk: Desk) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    request = {"custom_id": "r1", "method": "POST", "url": "/v1/chat/completions"}

    dataset = desk.check(
        desk.file(
            {**request, "body": {"model": "m", "messages": messages}, "metadata": {"a": 1}},
            {"id": "plain", "prompt": "p"},
        ),
        Layout(id_column=None),
    )

    items = list(dataset.items())
    assert [(item.id, item.model, item.metadata) for item in items] == [
        ("r1", "m", {"a": 1}),
        ("plain", None, {}),
    ]


def test_models_that_are_named_win_over_those_of_openais_lines(desk: Desk) -> None:
    request = {"custom_id": "r1", "method": "POST", "url": "/v1/chat/completions"}
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]}
    path = desk.file({**request, "body": body}, {"id": "own", "prompt": "p", "model": "mine"})

    dataset = desk.check(path, models=["a", "b"])

    assert [task.key[:2] for task in dataset.tasks()] == [("r1", "a"), ("r1", "b"), ("own", "mine")]
    assert dataset.task_count == 3


def test_an_openai_line_that_cannot_be_honoured_is_a_bad_row(desk: Desk) -> None:
    row = {"custom_id": "r1", "method": "POST", "url": "/v1/embeddings", "body": {}}

    assert "line 1: url must be /v1/chat/completions" in desk.bad(desk.file(row)).raw_message


def test_a_template_and_columns_make_the_prompts(desk: Desk) -> None:
    path = desk.folder / "data.csv"
    path.write_text("key,text,label\na,one,x\nb,two,y\n")
    layout = Layout(template="Translate {text}", id_column="key", extra="metadata")

    items = list(desk.check(path, layout).items())

    assert [(item.id, item.prompt, item.metadata, item.line) for item in items] == [
        ("a", "Translate one", {"text": "one", "label": "x"}, 2),
        ("b", "Translate two", {"text": "two", "label": "y"}, 3),
    ]


def test_files_are_looked_for_beside_the_datasets_file(desk: Desk) -> None:
    (desk.folder / "note.txt").write_text("one")

    dataset = desk.check(desk.file({"prompt": "p", "files": ["note.txt"]}))

    assert next(dataset.items()).files == (str(desk.folder / "note.txt"),)


# --- bad rows -------------------------------------------------------------------------------------


def test_bad_rows_are_named_with_their_lines_before_anything_is_spent(desk: Desk) -> None:
    path = desk.file(
        {"id": "a", "prompt": "x"},
        "{",
        "",
        {"id": "a", "prompt": "y"},
        {"prompt": "z", "sytem": "s"},
        {"prompt": "same"},
        {"prompt": "same"},
    )

    error = desk.bad(path)

    assert [(row.line, row.reason.partition(":")[0]) for row in error.bad] == [
        (2, "no JSON"),
        (4, "an earlier row has the id 'a', too"),
        (5, "unknown column 'sytem'; did you mean 'system'?"),
        (7, "it asks the same as an earlier row, and neither has an id"),
    ]
    assert error.raw_message.startswith(
        f"4 of 6 rows of {path} cannot be asked:\n  line 2: no JSON"
    )
    assert (error.count, "--skip-bad" in error.hint) == (4, True)


def test_the_first_ten_are_named_and_all_are_counted(desk: Desk) -> None:
    error = desk.bad(desk.file({"prompt": "p"}, *["{"] * 250))

    assert error.count == 250
    assert len(error.bad) == 100
    assert error.raw_message.count("\n  line") == 10
    assert error.raw_message.endswith("\n  and 240 more")


def test_the_error_travels_with_its_rows(desk: Desk) -> None:
    error = desk.bad(desk.file("{"))

    copied = pickle.loads(pickle.dumps(error))

    assert (copied.count, str(copied.bad[0])) == (1, str(error.bad[0]))


@pytest.mark.parametrize("shuffle", [None, 1])
def test_bad_rows_are_left_out_if_asked(desk: Desk, shuffle: int | None) -> None:
    path = desk.file("{", {"id": "a", "prompt": "x"}, "5", {"id": "a", "prompt": "y"}, "{}")

    dataset = desk.check(path, skip_bad=True, shuffle=shuffle)

    assert [(item.id, item.prompt, item.line) for item in dataset.items()] == [("a", "x", 2)]
    assert (dataset.count, dataset.bad_count) == (1, 4)
    assert [row.line for row in dataset.bad] == [1, 3, 4, 5]
    assert [row.__traceback__ for row in dataset.bad] == [None] * 4


def test_a_file_of_something_else_is_not_read_to_its_end(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HOPELESS_ROWS", 5)

    assert desk.bad(desk.file(*["{"] * 50)).count == 5


@pytest.mark.parametrize("given_rows", [[], ["", ""]])
def test_an_empty_dataset_is_an_error(desk: Desk, given_rows: list[str]) -> None:
    with pytest.raises(ConfigurationError, match="there are no items in"):
        desk.check(desk.file(*given_rows))


def test_a_dataset_without_a_good_row_is_an_error_that_says_why(desk: Desk) -> None:
    with pytest.raises(ConfigurationError, match=r"there are no items in .*\n  line 1: no JSON"):
        desk.check(desk.file("{"), skip_bad=True)


def test_a_field_of_the_template_that_no_row_has_is_named_once(desk: Desk) -> None:
    path = desk.file({"text": "a"}, {"text": "b"})

    with pytest.raises(ConfigurationError, match="field 'txt' is in no row") as caught:
        desk.check(path, Layout(template="Translate {txt}"))

    assert caught.value.hint == "Did you mean 'text'?"


def test_a_prompt_column_that_no_row_has_is_told_also_beside_chats(desk: Desk) -> None:
    path = desk.file({"messages": [{"role": "user", "content": "Hi"}], "label": 1})

    with pytest.raises(ConfigurationError, match="prompt column 'lable' is in no row"):
        desk.check(path, Layout(prompt_column="lable", extra="metadata"))


def test_an_unknown_column_of_a_table_is_named_once(desk: Desk) -> None:
    frame = pd.DataFrame({"prompt": ["a", "b"], "label": [1, 2]})

    with pytest.raises(ConfigurationError, match="unknown column 'label'") as caught:
        desk.check(frame)

    assert not isinstance(caught.value, BadItemsError)


@pytest.mark.parametrize("options", [{"samples": 0}, {"limit": 0}, {"samples": True}])
def test_numbers_that_make_no_sense_are_refused(desk: Desk, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="must be at least 1"):
        desk.check(["a"], **options)


# --- limit and shuffle ----------------------------------------------------------------------------


def test_a_limit_counts_items_and_reads_no_further(desk: Desk) -> None:
    seen: list[int] = []
    path = desk.file(*numbered(3), "{", *numbered(0))

    dataset = desk.check(path, limit=2, models=["m", "n"], on_progress=seen.append)

    assert ids(dataset) == ["0", "1"]
    assert (dataset.count, dataset.task_count, dataset.bad_count, seen) == (2, 4, 0, [2])


def test_a_shuffle_is_the_same_for_the_same_seed(desk: Desk) -> None:
    path = desk.file(*numbered(50))

    orders = [ids(desk.check(path, shuffle=seed)) for seed in (1, 1, 2)]

    assert orders[0] == orders[1] != orders[2]
    assert orders[0] != sorted(orders[0], key=int)
    assert sorted(orders[0], key=int) == [str(number) for number in range(50)]


def test_a_shuffled_limit_takes_the_first_of_the_order(desk: Desk) -> None:
    path = desk.file(*numbered(50))
    whole = ids(desk.check(path, shuffle=4))

    dataset = desk.check(path, shuffle=4, limit=7)

    assert ids(dataset) == whole[:7]
    assert dataset.count == 7


def test_a_shuffled_item_knows_its_line(desk: Desk) -> None:
    path = desk.folder / "data.jsonl"
    lines = ["", *map(json.dumps, numbered(5)), "", json.dumps({"id": 5, "prompt": "é"})]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())

    items = list(desk.check(path, shuffle=0).items())

    assert sorted((int(item.id), item.line) for item in items) == [
        *((0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
        (5, 8),
    ]


def test_what_is_no_file_of_json_lines_is_kept_in_one_to_be_shuffled(desk: Desk) -> None:
    rows = numbered(30)
    order = ids(desk.check(desk.file(*rows), shuffle=9))

    assert ids(desk.check(pd.DataFrame(rows), shuffle=9)) == order
    assert len(desk.spool.read_text().splitlines()) == 30
