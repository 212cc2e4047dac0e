"""A row of a dataset: what it becomes, and what is said of one that is no item."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chutes_opencode.batch.item import BatchItem
from chutes_opencode.batch.items.layout import COLUMNS
from chutes_opencode.batch.items.lines import BadRowError, Layout, params_of, parse_row
from chutes_opencode.errors import ConfigurationError
from chutes_opencode.request import Params

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}}
CHAT = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]


def parsed(row: dict[str, Any], layout: Layout | None = None, **more: Any) -> BatchItem:
    return parse_row(row, line=7, layout=layout or Layout(), **more)


def refused(row: dict[str, Any], layout: Layout | None = None) -> str:
    with pytest.raises(BadRowError) as caught:
        parsed(row, layout)
    assert caught.value.line == 7
    return caught.value.reason


# --- what an item is made of ----------------------------------------------------------------------


def test_a_row_becomes_an_item() -> None:
    item = parsed(
        {
            "id": "a",
            "prompt": "Count.",
            "system": "Be brief.",
            "model": "org/Model",
            "params": {"temperature": 0.5, "top_k": 4},
            "output_schema": SCHEMA,
            "metadata": {"label": [1, None]},
        }
    )

    assert item == BatchItem(
        id="a",
        prompt="Count.",
        system="Be brief.",
        model="org/Model",
        params={"temperature": 0.5, "top_k": 4},
        output_schema=SCHEMA,
        metadata={"label": [1, None]},
        content_hash=item.content_hash,
        line=7,
    )
    assert len(item.content_hash) == 32


def test_a_chat_needs_no_prompt() -> None:
    item = parsed({"messages": CHAT})

    assert (item.prompt, item.messages) == ("", tuple(CHAT))


@pytest.mark.parametrize(
    ("column", "cell", "value"),
    [
        ("params", '{"temperature": 1}', {"temperature": 1}),
        ("messages", json.dumps(CHAT), tuple(CHAT)),
        ("metadata", '{"a": "b"}', {"a": "b"}),
        ("output_schema", json.dumps(SCHEMA), SCHEMA),
    ],
)
def test_text_may_be_the_json_of_an_object_or_a_list(column: str, cell: str, value: object) -> None:
    assert getattr(parsed({"prompt": "p", column: cell}), column) == value


@pytest.mark.parametrize("absent", [None, float("nan"), ""])
def test_null_nan_and_empty_text_are_absent(absent: object) -> None:
    names = ["id", "messages", "system", "model", "params", "files", "work_dir", "output_schema"]
    row = dict.fromkeys([*names, "repo", "commit", "metadata"], absent)

    assert parsed({"prompt": "p", **row}) == parsed({"prompt": "p"})


def test_a_null_parameter_is_absent() -> None:
    assert parsed({"prompt": "p", "params": {"seed": None, "top_p": 1}}).params == {"top_p": 1}


def test_parameters_of_an_extra_body_stand_beside_the_others() -> None:
    item = parsed({"prompt": "p", "params": {"seed": 1, "extra_body": {"top_k": 2}}})

    assert item.params == {"seed": 1, "top_k": 2}


# --- ids ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_id", "taken"), [("a", "a"), (5, "5"), (0, "0"), (5.0, "5"), (2**70, str(2**70))]
)
def test_ids_are_text_or_whole_numbers(given_id: object, taken: str) -> None:
    assert parsed({"id": given_id, "prompt": "p"}).id == taken


@pytest.mark.parametrize("given_id", [True, 1.5, 1e300, ["a"], {"a": 1}, "a\0b"])
def test_nothing_else_is_an_id(given_id: object) -> None:
    assert "id" in refused({"id": given_id, "prompt": "p"})


def test_without_an_id_the_content_is_it() -> None:
    item = parsed({"prompt": "p"})

    assert item.id == item.content_hash


def test_an_id_column_has_to_be_filled() -> None:
    layout = Layout(id_column="key")

    assert parsed({"key": 3, "prompt": "p"}, layout).id == "3"
    assert "there is no 'key'" in refused({"key": "", "prompt": "p"}, layout)
    assert "there is no 'key'" in refused({"prompt": "p"}, layout)


# --- templates and columns ------------------------------------------------------------------------


def test_a_template_makes_the_prompt() -> None:
    layout = Layout(template="Translate {text} to {language}")

    assert parsed({"text": "a", "language": "b"}, layout).prompt == "Translate a to b"


@pytest.mark.parametrize("row", [{"text": "a"}, {"text": "a", "language": None}])
def test_a_row_without_a_field_of_the_template_is_bad(row: dict[str, Any]) -> None:
    layout = Layout(template="Translate {text} to {language}")

    assert refused(row, layout) == "there is no 'language' for the template"


def test_a_prompt_column_makes_the_prompt() -> None:
    assert parsed({"question": "Why?"}, Layout(prompt_column="question")).prompt == "Why?"


def test_an_unknown_column_is_refused_with_the_nearest() -> None:
    assert "did you mean 'prompt'" in refused({"promt": "p"})


def test_unknown_columns_are_kept_if_asked() -> None:
    layout = Layout(template="{text}", extra="metadata")
    row = {"id": 1, "text": "t", "label": None, "prompt": "old", "metadata": {"a": 1}}

    item = parsed(row, layout)

    assert item.prompt == "t"
    assert item.metadata == {"text": "t", "label": None, "prompt": "old", "a": 1}


# --- rows that are no items -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({}, "the prompt is empty"),
        ({"prompt": ""}, "the prompt is empty"),
        ({"prompt": " \n\t"}, "the prompt is empty"),
        ({"prompt": None}, "the prompt is empty"),
        ({"prompt": 5}, "'prompt' must be text, not a number"),
        ({"prompt": True}, "'prompt' must be text, not true or false"),
        ({"prompt": ["p"]}, "'prompt' must be text, not a list"),
        ({"prompt": "a\0b"}, "NUL"),
        ({"prompt": "a\ud800"}, "lone surrogate"),
        ({"prompt": "p", "system": 5}, "system must be text, not a number"),
        ({"prompt": "p", "model": {}}, "model must be text, not an object"),
        ({"prompt": "p", "params": []}, "params must be an object, not a list"),
        ({"prompt": "p", "params": "{a}"}, "params is no JSON"),
        ({"prompt": "p", "params": {"temperature": "hot"}}, "params.temperature must be a number"),
        ({"prompt": "p", "params": {"stream": True}}, "may not hold stream"),
        ({"prompt": "p", "messages": {}}, "messages must be a list, not an object"),
        ({"messages": [{"role": "wizard", "content": "a"}]}, "role 'wizard'"),
        ({"messages": [{"role": "system", "content": "a"}]}, "the prompt is empty"),
        ({"messages": [{"role": "user", "content": "a\0"}]}, "NUL"),
        ({"prompt": "p", "output_schema": {"type": "x"}}, "output_schema"),
        ({"prompt": "p", "output_schema": [1]}, "output_schema must be an object"),
        ({"prompt": "p", "metadata": [1]}, "metadata must be an object"),
        ({"prompt": "p", "metadata": {"a": 2**70}}, "metadata is no JSON"),
        ({"prompt": "p", "files": [5]}, "files must be paths, not a number"),
        ({"prompt": "p", "files": "no-such-file"}, "no-such-file cannot be read: No such file"),
        ({"prompt": "p", "files": ["a\0b"]}, "NUL"),
        ({"prompt": "p", "work_dir": "no-such-folder"}, "no-such-folder is no folder"),
        ({"prompt": "p", "repo": "no-such-repo"}, "no-such-repo is no folder"),
        ({"prompt": "p", "repo": "pallets/flask"}, "it is https://github.com/pallets/flask"),
        ({"prompt": "p", "commit": "abc"}, "commit needs a repo"),
        ({"prompt": "p", "repo": "https://h/r", "work_dir": "."}, "exclude each other"),
        ({"prompt": "p", "repo": "--upload-pack=x"}, "may not begin with a dash"),
        ({"prompt": "p", "repo": "https://h/r", "commit": "-c"}, "may not begin with a dash"),
    ],
)
def test_what_is_said_of_a_row_that_is_no_item(row: dict[str, Any], reason: str) -> None:
    assert reason in refused(row)


def test_what_nests_too_deeply_to_be_stored_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(250):
        deep = [deep]

    assert "metadata is no JSON" in refused({"prompt": "p", "metadata": {"a": deep}})


def test_a_reason_is_short_and_travels() -> None:
    error = BadRowError(3, "x" * 10_000)

    assert len(error.reason) < 600
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert str(error).startswith("line 3: xxx")


# --- files and folders ----------------------------------------------------------------------------


@pytest.mark.parametrize("given_files", ["a.txt", ["a.txt"], '["a.txt"]'])
def test_a_relative_file_is_looked_for_in_the_datasets_folder(
    tmp_path: Path, given_files: object
) -> None:
    (tmp_path / "a.txt").write_text("one")

    item = parsed({"prompt": "p", "files": given_files}, Layout(folder=tmp_path))

    assert item.files == (str(tmp_path / "a.txt"),)


def test_an_absolute_file_is_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")

    item = parsed({"prompt": "p", "files": str(tmp_path / "a.txt")}, Layout(folder=Path("else")))

    assert item.files == (str(tmp_path / "a.txt"),)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert "Is a directory" in refused({"prompt": "p", "files": str(tmp_path)})


@pytest.mark.parametrize("column", ["work_dir", "repo"])
def test_a_relative_folder_is_looked_for_in_the_datasets_folder(
    tmp_path: Path, column: str
) -> None:
    (tmp_path / "sub").mkdir()

    item = parsed({"prompt": "p", column: "sub"}, Layout(folder=tmp_path))

    assert getattr(item, column) == str(tmp_path / "sub")


@pytest.mark.parametrize(
    "address", ["https://host/a/b.git", "git@host:a/b.git", "host:b", "file:///a/b", "ssh://h/a"]
)
def test_a_repositorys_address_stays_as_it_is(address: str) -> None:
    item = parsed({"prompt": "p", "repo": address, "commit": "abc"}, Layout(folder=Path("x")))

    assert (item.repo, item.commit) == (address, "abc")


def test_a_file_that_went_away_after_the_check_is_left_to_the_prompt(tmp_path: Path) -> None:
    item = parsed({"prompt": "p", "files": str(tmp_path / "gone")}, files_must_exist=False)

    assert item.files == (str(tmp_path / "gone"),)


# --- the content's hash ---------------------------------------------------------------------------


def test_an_id_and_metadata_are_not_asked() -> None:
    more: list[dict[str, Any]] = [{}, {"id": "a"}, {"metadata": {"a": 1}}]

    assert len({parsed({"prompt": "p", **row}).content_hash for row in more}) == 1


def test_whatever_is_asked_is_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.txt").write_text("one")
    more: list[dict[str, Any]] = [
        *({}, {"messages": CHAT}, {"system": "s"}, {"model": "m"}, {"params": {"seed": 1}}),
        *({"files": "a.txt"}, {"files": "b.txt"}, {"work_dir": "."}, {"repo": "."}),
        *({"repo": ".", "commit": "c"}, {"output_schema": {}}, {"output_schema": SCHEMA}),
    ]
    layout = Layout(folder=tmp_path)
    rows = [{"prompt": "p", **row} for row in more] + [{"prompt": "q"}]

    assert len({parsed(row, layout).content_hash for row in rows}) == len(rows)


def test_it_does_not_depend_on_the_order_of_keys_or_the_place_of_the_files(tmp_path: Path) -> None:
    hashes = set()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text("text")
        params = {"seed": 1, "top_p": 1} if name == "one" else {"top_p": 1, "seed": 1}
        row = {"prompt": "p", "files": "a.txt", "work_dir": ".", "params": params}
        hashes.add(parsed(row, Layout(folder=tmp_path / name)).content_hash)

    assert len(hashes) == 1


def test_a_files_content_is_part_of_it(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    hashes = []
    for text in ("one", "two!", "one"):
        file.write_text(text)
        hashes.append(parsed({"prompt": "p", "files": str(file)}).content_hash)

    assert hashes[0] == hashes[2] != hashes[1]


# --- sampling parameters --------------------------------------------------------------------------


def test_parameters_have_the_names_of_openais_chat_body() -> None:
    given_params = {"temperature": 0, "stop": ["a"], "top_k": 5, "extra_body": {"min_p": 0.1}}

    assert params_of(given_params | {"seed": None}) == Params(
        temperature=0, stop=("a",), extra_body={"top_k": 5, "min_p": 0.1}
    )


@pytest.mark.parametrize(
    "values", [{"max_tokens": 0}, {"model": "m"}, {"extra_body": 5}, {"n": 2}, {"top_p": 2}]
)
def test_parameters_that_cannot_be_sent_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        params_of(values)


# --- anything -------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
columns = st.sampled_from([*COLUMNS, "text", "label"])
rows = st.dictionaries(columns | st.text(), json_values | st.sampled_from([CHAT, SCHEMA, "x"]))
layouts = st.sampled_from(
    [
        Layout(),
        Layout(extra="metadata"),
        Layout(template="{text}"),
        Layout(template="{text} {label}", extra="metadata"),
        Layout(prompt_column="text", id_column="label"),
    ]
)


@given(rows, layouts)
def test_any_row_is_an_item_or_bad(row: dict[str, Any], layout: Layout) -> None:
    try:
        item = parse_row(row, line=1, layout=layout)
    except BadRowError as error:
        reason = error.reason
        item = None

    if item is None:
        assert reason
    else:
        assert item.id
        assert item.prompt or item.messages
        orjson.dumps([[item.params, item.metadata, item.messages, item.output_schema]])


def test_what_helps_is_part_of_the_reason() -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
    row = {"messages": [{"role": "user", "content": [image]}]}

    with pytest.raises(BadRowError) as caught:
        parse_row(row, line=3, layout=Layout())

    assert caught.value.reason == (
        "messages[0] holds something else than text (Pass images and documents with files=.)"
    )
