"""A file is either read or refused with one error that names the row, the value and the fix.

The malformed inputs are in tests/data/malformed/; tests/helpers/malformed.py reads them.
"""

from __future__ import annotations

import gzip
import json
import re
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qa_lightning.data.formats import SUFFIXES
from qa_lightning.data.sources import source_fingerprint
from qa_lightning.errors import InputError
from tests.helpers import commands
from tests.helpers.forms import (
    CONTEXT,
    ROWS,
    as_arrow,
    as_json,
    as_lines,
    as_parquet,
    as_table,
    as_workbook,
    nested,
    read,
    row,
    with_listed_answers,
    write,
)
from tests.helpers.malformed import BUILT, BUILT_ROWS, REFUSED, TABLES, load_cases

CASES = load_cases()
each_case = pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in CASES.items()])


@each_case
def test_malformed_input_is_one_clear_error(tmp_path, case):
    name = case.make(tmp_path)
    with pytest.raises(InputError) as caught:
        read(name)
    message = "\n".join(caught.value.problems)
    assert [word for word in case.expected if word not in message] == []
    assert max(map(len, caught.value.problems)) < 2000 + len(str(tmp_path)) + 5 * len(case.source)
    if case.rows:
        assert "in the data (correct them, or pass --data.on_bad_rows skip" in caught.value.problems[0]
        assert all(problem.startswith(name) for problem in caught.value.problems[1:])


@each_case
def test_skip_leaves_bad_rows_out_and_refuses_bad_files(tmp_path, case):
    name = case.make(tmp_path)
    if not case.rows:
        with pytest.raises(InputError):
            read(name, "skip")
        return
    examples, skipped = read(name, "skip")
    assert examples
    left_out = "\n".join(skipped)
    assert [word for word in case.expected if word not in left_out] == []


@each_case
def test_commands_end_with_status_2_and_no_traceback(tmp_path, capsys, case):
    name = case.make(tmp_path)
    predictions = write(tmp_path.parent, f"{tmp_path.name}-predictions.json", b"{}")
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        commands.run_command(lambda: commands.evaluate(["--predictions", str(predictions), "--data", name]))
    output = capsys.readouterr()
    if case.rows and ended.value.code == 0:  # the text of an answer is enough to score it
        assert "gold answer" in output.out
        with pytest.raises(InputError) as caught:
            read(name)
        assert {"answer_start"} & set(re.findall(r"\w+", "".join(caught.value.problems[1:])))
        return
    assert ended.value.code == 2
    assert output.err.startswith("error: ")
    assert "Traceback" not in output.err
    assert len(output.err) < 50_000


@pytest.mark.parametrize("use", [read, lambda path: source_fingerprint(str(path), "train")])
def test_a_file_that_may_not_be_read_is_one_clear_error(tmp_path, monkeypatch, use):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    for suffix in (".json", ".jsonl", ".csv"):
        path = write(tmp_path, f"q{suffix}", b"x")
        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", refuse)
            with pytest.raises(InputError, match=rf"q\{suffix}: cannot be read \(Permission denied\)$"):
                use(path)


def test_the_table_is_long():
    tables = {path.stem: path.read_text(encoding="utf-8") for path in TABLES.glob("*.yaml")}
    names = re.findall(r"^([^#\s].*):$", "\n".join(tables.values()), re.MULTILINE)
    built = re.findall(r"^  built: (.*)$", "\n".join(tables.values()), re.MULTILINE)
    assert len(CASES) >= 40
    assert len(names) == len(set(names)), "two cases have the same name"
    assert tables.keys() == {*REFUSED, "bad_rows", "bad_lines"}
    assert set(built) == BUILT.keys() | BUILT_ROWS.keys()


# --- random damage and random values ---

CONTENTS = {
    ".json": as_json(nested(ROWS, "v2.0")),
    ".jsonl": as_lines(ROWS),
    ".jsonlines": as_lines(ROWS),
    ".ndjson": as_lines(with_listed_answers(ROWS)),
    ".csv": as_table(ROWS),
    ".tsv": as_table(ROWS, "\t"),
    ".parquet": as_parquet(ROWS),
    ".arrow": as_arrow(ROWS),
    ".xlsx": as_workbook(ROWS),
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_to_a_file_is_read_or_refused(tmp_path, suffix, packed, data):
    content = gzip.compress(CONTENTS[suffix], 1, mtime=0) if packed else CONTENTS[suffix]
    for _ in range(data.draw(st.integers(1, 3), "damages")):
        place = data.draw(st.integers(0, len(content)), "place")
        length = data.draw(st.sampled_from([0, 1, 1, 5, 10**6]), "length")
        other = data.draw(
            st.sampled_from([b"", b"\0", b"\xff", b'"', b",", b"\n", b"}", b"[", b"9", b"\xed\xa0\x80"]), "other"
        )
        content = content[:place] + other + content[place + length :]
    path = tmp_path / f"q{suffix}{'.gz' if packed else ''}"
    path.write_bytes(content)
    for on_bad_rows in ("error", "skip", "repair"):
        with suppress(InputError):
            read(path, on_bad_rows)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 60)
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=5)
    | st.sampled_from(
        ["Ada", "1843", CONTEXT, "[]", "{}", "[1]", '{"text": ["Ada"], "answer_start": [0]}', "nan", "true"]
    ),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["text", "answer_start", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)
NAMES = st.sampled_from("id question context answers answer_text answer answer_start start is_impossible q x".split())


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.dictionaries(NAMES, VALUES, max_size=6)
        | st.dictionaries(NAMES, VALUES, max_size=3).map(lambda changes: row() | changes)
        | st.just(row()),
        max_size=4,
    )
)
def test_any_values_of_rows_are_read_or_refused(tmp_path, rows):
    path = tmp_path / "q.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    for on_bad_rows in ("error", "skip", "repair", "repair_or_skip"):
        try:
            result = read(path, on_bad_rows)
        except InputError:
            continue
        for example in result if on_bad_rows == "error" else result[0]:
            for text, start in zip(example["answers"]["text"], example["answers"]["answer_start"], strict=True):
                assert example["context"][start : start + len(text)] == text


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(VALUES)
def test_any_json_is_read_or_refused(tmp_path, value):
    path = tmp_path / "q.json"
    for content in (
        value,
        {"data": value},
        {"data": [{"paragraphs": value}]},
        [{"paragraphs": [{"context": value, "qas": value}]}],
    ):
        path.write_text(json.dumps(content))
        with pytest.raises(InputError):
            read(path)
