"""Every form of a source gives the same rows, and no form changes a text."""

from __future__ import annotations

import csv
import gzip
import io
import json
import shutil
from datetime import date
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st

from qa_lightning import SquadDataModule
from qa_lightning.checks.report import check_source
from qa_lightning.data.columns import ReadSettings
from qa_lightning.data.formats import SUFFIXES, file_format, read_file, workbooks
from qa_lightning.data.sources import (
    count_rows,
    has_split,
    has_validation,
    read_rows,
    source_files,
    source_fingerprint,
    source_kind,
)
from qa_lightning.errors import InputError
from tests.helpers.forms import (
    ROWS,
    as_arrow,
    as_json,
    as_lines,
    as_parquet,
    as_table,
    as_workbook,
    cases,
    changed_workbook,
    listed_answers,
    nested,
    read,
    row,
    with_listed_answers,
    workbook,
    write,
)

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
LISTED = with_listed_answers(ROWS)
IMPOSSIBLE = {key: ROWS[3][key] for key in ("id", "question", "context")} | {"is_impossible": True}


def spreadsheet(rows, separator):
    """A table as spreadsheets write it: a byte-order mark, Windows line ends, and empty rows at the end."""
    filled = as_table(rows, separator, lineterminator="\r\n")
    return BYTE_ORDER_MARK + filled + (separator * 3 + "\r\n").encode() * 2 + b"\r\n"


def spaced_header(table):
    """A table as people type it: blanks around the commas of the first line, and at its end."""
    header, rest = table.split(b"\r\n", 1)
    return header.replace(b",", b" , ") + b" \r\n" + rest


FORMS = {
    "SQuAD v1.1": (".json", as_json(nested(ROWS, "1.1"))),
    "SQuAD v1.1 without titles": (".json", as_json(nested(ROWS, "1.1", titles=False))),
    "SQuAD v2.0": (".json", as_json(nested(ROWS, "v2.0"))),
    "SQuAD v2.0 without titles": (".json", as_json(nested(ROWS, "v2.0", titles=False))),
    "SQuAD with escapes": (".json", json.dumps(nested(ROWS, "v2.0")).encode("ascii")),
    "list of articles": (".json", as_json(nested(ROWS)["data"])),
    "list of articles without titles": (".json", as_json(nested(ROWS, titles=False)["data"])),
    "list of rows": (".json", as_json(ROWS)),
    "list of rows with listed answers": (".json", as_json(LISTED)),
    "rows under data": (".json", as_json({"data": ROWS})),
    "extra columns": (".json", as_json([{"title": "t", **item, "is_impossible": None} for item in ROWS])),
    "no answers column, but is_impossible": (".json", as_json([*ROWS[:3], IMPOSSIBLE])),
    "no answers column in one of the first": (".json", as_json([ROWS[0], *LISTED[1:3], IMPOSSIBLE])),
    "keys in another order": (".jsonl", as_lines([dict(reversed(item.items())) for item in ROWS])),
    "ending in capitals": (".JSON", as_json(ROWS)),
    "JSON lines": (".jsonl", as_lines(ROWS) + b"\n"),
    "JSON lines without the last line end": (".ndjson", as_lines(ROWS)),
    "JSON lines with CRLF and blank lines": (".jsonl", as_lines(ROWS, b"\r\n\r\n  \r\n")),
    "JSON lines with listed answers": (".jsonl", as_lines(LISTED)),
    "JSON with a byte-order mark": (".json", BYTE_ORDER_MARK + as_json(nested(ROWS, "v2.0"))),
    "JSON lines with a byte-order mark": (".jsonl", BYTE_ORDER_MARK + as_lines(ROWS)),
    "Parquet": (".parquet", as_parquet(ROWS)),
    "Parquet with listed answers": (".parquet", as_parquet(LISTED)),
    "CSV with commas": (".csv", as_table(ROWS)),
    "CSV with semicolons": (".csv", as_table(ROWS, ";")),
    "CSV with tabs": (".csv", as_table(ROWS, "\t")),
    "CSV with everything in quotes": (".csv", as_table(LISTED, quoting=csv.QUOTE_ALL)),
    "CSV with blank lines": (".csv", b"\n \r\n" + as_table(ROWS).replace(b"\r\n", b"\n\n")),
    "CSV with blanks around its names": (".csv", spaced_header(as_table(ROWS))),
    "CSV of a spreadsheet": (".csv", spreadsheet(ROWS, ",")),
    "CSV of a German spreadsheet": (".csv", spreadsheet(LISTED, ";")),
    "CSV with old line ends": (".csv", as_table(ROWS, lineterminator="\r")),
    "CSV with an index": (".csv", as_table([{"": str(number), **item} for number, item in enumerate(ROWS)])),
    "CSV with columns in another order": (".csv", as_table([dict(reversed(item.items())) for item in LISTED])),
    "TSV": (".tsv", as_table(ROWS, "\t")),
    "TSV with a byte-order mark": (".tsv", BYTE_ORDER_MARK + as_table(ROWS, "\t")),
    "CSV with bars": (".csv", as_table(ROWS, "|")),
    "CSV with Excel's line of the separator": (".csv", b"sep=;\r\n" + as_table(ROWS, ";")),
    "CSV with a mark and Excel's line": (".csv", BYTE_ORDER_MARK + b'"sep=\t"\r\n' + as_table(LISTED, "\t")),
    "CSV with separators in a quoted name": (
        ".csv",
        as_table([{"a,b,c,d,e,f": "", **item} for item in ROWS], ";", quoting=csv.QUOTE_ALL),
    ),
    "JSON lines of another ending": (".jsonlines", as_lines(ROWS)),
    "Arrow stream": (".arrow", as_arrow(ROWS)),
    "Arrow file": (".arrow", as_arrow(LISTED, "file")),
    "Arrow in gzip": (".arrow.gz", as_arrow(ROWS)),
    "workbook": (".xlsx", as_workbook(ROWS)),
    "workbook with listed answers": (".xlsx", as_workbook(LISTED)),
    "workbook in gzip": (".xlsx.gz", as_workbook(ROWS)),
    "workbook with empty rows and columns": (".xlsx", as_workbook([{"": None, **item, " ": ""} for item in ROWS])),
    "JSON in gzip": (".json.gz", as_json(nested(ROWS, "v2.0"))),
    "JSON lines in gzip": (".jsonl.gz", BYTE_ORDER_MARK + as_lines(ROWS)),
    "CSV in gzip": (".csv.gz", spreadsheet(ROWS, ";")),
    "TSV in gzip": (".tsv.GZ", as_table(ROWS, "\t")),
    "Parquet in gzip": (".parquet.gz", as_parquet(ROWS)),
}


@pytest.mark.parametrize(("suffix", "content"), cases(FORMS))
def test_every_form_of_a_source_reads_the_same_rows_and_tells_nothing(tmp_path, suffix, content):
    packed = gzip.compress(content) if suffix.lower().endswith(".gz") else content
    path = tmp_path / f"questions{suffix}"
    path.write_bytes(packed)
    told = []
    assert source_kind(str(path)) == "files"
    assert read(path, told=told) == ROWS
    assert told == []


def test_all_known_endings_are_tried():
    assert {file_format(Path(f"questions{suffix}")) for suffix, _ in FORMS.values()} == set(SUFFIXES)


# --- encodings ---

LATIN = [row(id=f"q{number}", context=f"“Ada” – né{number} à la fenêtre, 5 €") for number in range(3)]
LATIN = [item | {"answers": {"text": ["Ada"], "answer_start": [1]}} for item in LATIN]
CONTENTS = {
    ".json": as_json(nested(LATIN)),
    ".jsonl": as_lines(LATIN),
    ".csv": as_table(LATIN),
    ".tsv": as_table(LATIN, "\t"),
    ".csv.gz": b"sep=;\n" + as_table(LATIN, ";"),
}


@pytest.mark.parametrize("suffix", CONTENTS)
@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-16-le", "utf-16-be"])
def test_a_byte_order_mark_says_the_encoding_and_a_line_says_so(tmp_path, suffix, encoding):
    mark = {"utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff"}.get(encoding, b"")
    path = write(tmp_path, f"q{suffix}", mark + CONTENTS[suffix].decode().encode(encoding))
    told = []
    assert read(path, told=told) == LATIN
    assert told == [f"{path}: read as {encoding[:6]}, as its byte-order mark says"]
    assert read(path, reading=ReadSettings(encoding="cp1252")) == LATIN  # the mark is certain


@pytest.mark.parametrize("suffix", CONTENTS)
@pytest.mark.parametrize("encoding", ["cp1252", "utf-16-le", "utf_16_be", "gb18030", "UTF8", "utf-8-sig"])
def test_an_encoding_that_is_given_is_read(tmp_path, suffix, encoding):
    path = write(tmp_path, f"q{suffix}", CONTENTS[suffix].decode().encode(encoding))
    told = []
    assert read(path, told=told, reading=ReadSettings(encoding=encoding)) == LATIN
    assert told == []


@pytest.mark.parametrize("suffix", CONTENTS)
@pytest.mark.parametrize("encoding", ["cp1252", "utf-16-le", "gb18030", "utf-8"])
def test_a_byte_order_mark_of_utf_8_goes_before_an_encoding_that_is_given(tmp_path, suffix, encoding):
    path = write(tmp_path, f"q{suffix}", BYTE_ORDER_MARK + CONTENTS[suffix])
    told = []
    assert read(path, told=told, reading=ReadSettings(encoding=encoding)) == LATIN
    assert told == []


def test_an_encoding_that_is_not_the_files_is_said_with_the_line(tmp_path):
    path = write(tmp_path, "q.csv", b"a,b\n" + "q9,Qué,ñ,x\n".encode("latin-1"))
    with pytest.raises(
        InputError, match=r"q\.csv: cannot be read as shift_jis, from line 2 on .*name its encoding with"
    ):
        read(path, reading=ReadSettings(encoding="shift_jis"))
    with pytest.raises(InputError, match=r"q\.csv: cannot be read as utf-16, from line 1 on"):
        read(path, reading=ReadSettings(encoding="utf-16"))
    odd = write(tmp_path, "odd.csv", b"\xff\xfea\x00,\x00b")
    with pytest.raises(InputError, match=r"odd\.csv: cannot be read as utf-16"):
        read(odd)
    path = write(tmp_path, "w.csv", CONTENTS[".csv"].decode().encode("utf-16-le"))
    with pytest.raises(InputError, match=r"w\.csv: holds NUL characters when read as cp1252; another --data\.encoding"):
        read(path, reading=ReadSettings(encoding="cp1252"))


@pytest.mark.parametrize("name", ["nonsense", "base64", "rot13", "undefined", "", "\0"])
def test_a_name_that_no_encoding_has_is_refused(name):
    (problem,) = ReadSettings(encoding=name).problems()
    assert problem.startswith(f"--data.encoding {name}: there is no encoding of that name")


def test_a_recoded_file_is_streamed_and_long_lines_are_kept_whole(tmp_path):
    long = row(id="long", context="é" * 300_000 + "Ada", answers={"text": ["Ada"], "answer_start": [300_000]})
    rows = [long, *LATIN * 1]
    path = write(tmp_path, "q.jsonl", as_lines(rows).decode().encode("utf-16"))
    assert read(path) == rows
    broken = write(tmp_path, "b.jsonl", (as_lines(rows) + b"\n").decode().encode("utf-16") * 2)
    places = [place for place, _ in read_file(broken)]
    assert places[1].endswith("line 1")


# --- places, as people count rows ---


def test_rows_of_a_table_have_the_numbers_that_a_spreadsheet_shows(tmp_path):
    table = b'sep=,\nquestion,context,answer\nWho?,Ada,Ada\n\nWho?,"Ada\n\nBob",Bob\nWhere?,x,\n'
    places = [place.rpartition(".csv ")[2] for place, _ in read_file(write(tmp_path, "q.csv", table))]
    assert places == ["row 2 (line 3)", "row 4 (line 5)", "row 5 (line 8)"]
    plain = [place.rpartition(".csv ")[2] for place, _ in read_file(write(tmp_path, "p.csv", as_table(ROWS)))]
    assert plain == ["row 2", "row 3", "row 4", "row 5"]


# --- workbooks ---


def test_cells_of_a_workbook_are_the_texts_of_a_table(tmp_path):
    sheet = [
        ["question", "context", "answer", "start", "seen"],
        ["How many?", "It was 1843, or 12.5, on 2024-05-01.", 1843, 7.0, True],
        ["How much?", "It was 1843, or 12.5, on 2024-05-01.", 12.5, 16, None],
        [None] * 5,
        ["When?", "It was 1843, or 12.5, on 2024-05-01.", date(2024, 5, 1), None, "x"],
    ]
    path = write(tmp_path, "q.xlsx", workbook({"Questions": sheet}))
    examples = read(path)
    assert [item["answers"]["text"] for item in examples] == [["1843"], ["12.5"], ["2024-05-01"]]
    assert [place.rpartition(".xlsx ")[2] for place, _ in read_file(path)] == ["row 2", "row 3", "row 5"]


def with_formulas(*rows, saved=b"<v />"):
    """A workbook whose formulas have no saved values, as openpyxl and pandas write them, or this one."""
    content = workbook({"Sheet": [["question", "context", "answer", "note"], *rows]})
    return changed_workbook(content, "xl/worksheets/sheet1.xml", (b"</f><v />", b"</f>" + saved))


def test_a_formula_without_a_saved_value_is_an_error_where_its_column_is_used(tmp_path):
    rows = [["Who?", "Ada", "Ada", None], ["Who?", "Bob", '=CONCATENATE("B","ob")', "=A2"], ["Who?", "Eve", "", ""]]
    for saved in (b"<v></v>", b""):
        path = write(tmp_path, "q.xlsx", with_formulas(*rows, saved=saved))
        for on_bad_rows in ("error", "skip"):
            with pytest.raises(InputError) as caught:
                read(path, on_bad_rows)
            assert caught.value.problems == [
                f"{path} row 3: column 'answer' holds a formula without a saved value: open the workbook in Excel or "
                "LibreOffice, and save it"
            ]
    rows[1][2], told = "Bob", []
    path = write(tmp_path, "q.xlsx", with_formulas(*rows))
    assert [item["answers"]["text"] for item in read(path, told=told)] == [["Ada"], ["Bob"], []]
    assert [line for line in told if "formula" in line] == [
        f"{path} row 3: column 'note' holds a formula without a saved value: open the workbook in Excel or "
        "LibreOffice, and save it"
    ]
    header = workbook({"Sheet": [["question", "context", '="answer"'], ["Who?", "Ada", "Ada"]]})
    with pytest.raises(InputError, match=r"row 1: column 3 of the header is a formula without a saved value"):
        read(write(tmp_path, "h.xlsx", header))


def test_a_formula_with_a_saved_value_is_that_value(tmp_path):
    row = ["Who?", "Ada", '=CONCATENATE("A","da")', ""]
    told = []
    content = with_formulas(row, saved=b"<v>Ada</v>")
    content = changed_workbook(content, "xl/worksheets/sheet1.xml", (b'<c r="C2">', b'<c r="C2" t="str">'))
    assert read(write(tmp_path, "q.xlsx", content), told=told)[0]["answers"]["text"] == ["Ada"]
    content = changed_workbook(content, "xl/worksheets/sheet1.xml", (b"<v>Ada</v>", b"<v></v>"))
    assert read(write(tmp_path, "q.xlsx", content), told=told)[0]["answers"]["text"] == []
    assert not [line for line in told if "formula" in line]


def with_shared_texts(content, *texts):
    """A workbook whose cells name their texts in a table, as Excel writes them."""
    sheet = "xl/worksheets/sheet1.xml"
    changes = [
        (f't="inlineStr"><is><t>{text}</t></is>'.encode(), f't="s"><v>{number}</v>'.encode())
        for number, text in enumerate(texts)
    ]
    items = "".join(f"<si><t>{text}</t></si>" for text in texts)
    space = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    added = {"xl/sharedStrings.xml": f'<sst xmlns="{space}">{items}</sst>'.encode()}
    kind = "application/vnd.openxmlformats-officedocument.spreadsheetml.sharedStrings+xml"
    known = f'<Override PartName="/xl/sharedStrings.xml" ContentType="{kind}"/></Types>'.encode()
    content = changed_workbook(content, sheet, *changes, added=added)
    return changed_workbook(content, "[Content_Types].xml", (b"</Types>", known))


@pytest.mark.parametrize("shared", [False, True])
def test_escapes_of_a_workbook_are_the_characters_that_they_stand_for(tmp_path, shared):
    texts = ["Who_x000d_?", "Ada_x000D_\nand _x005F_x000D_ _x00e9_", "Ada_x000D_\nand"]
    content = workbook({"Sheet": [["question", "context", "answer"], texts]})
    content = with_shared_texts(content, *texts) if shared else content
    (example,) = read(write(tmp_path, "q.xlsx", content))
    assert example["context"] == "Ada\r\nand _x000D_ é"
    assert (example["question"], example["answers"]["text"]) == ("Who\r?", ["Ada\r\nand"])


def test_the_first_visible_sheet_with_columns_is_read_and_the_others_are_named(tmp_path):
    rows = [list(ROWS[1]), [ROWS[1]["id"], ROWS[1]["question"], ROWS[1]["context"], json.dumps(ROWS[1]["answers"])]]
    sheets = {"Old": rows * 2, "Read me": [["Made in May"], ["by Ines"]], "Data": rows, "Lists": [["a", "b"], [1, 2]]}
    path = write(tmp_path, "q.xlsx", workbook(sheets, hidden=("Old",)))
    told = []
    assert read(path, told=told) == [ROWS[1]]
    assert told == [f"{path}: sheet 'Data' alone is read, not 'Read me', 'Lists'"]
    (place,) = [place for place, item in read_file(path) if item]
    assert place == f"{path} sheet 'Data' row 2"


def test_cells_to_the_right_of_the_header_are_not_read_and_a_line_says_so(tmp_path):
    sheet = [["question", "context", "answer"], ["Who?", "Ada", "Ada", "a note"], ["Who?", "Bob", "Bob", "", "another"]]
    path, told = write(tmp_path, "q.xlsx", workbook({"Sheet": sheet})), []
    assert [item["answers"]["text"] for item in read(path, told=told)] == [["Ada"], ["Bob"]]
    assert told[0] == f"{path}: cells to the right of the header's last name are not read"
    assert sum("to the right" in line for line in told) == 1


def test_a_workbook_without_openpyxl_says_what_to_install(tmp_path, monkeypatch):
    path = write(tmp_path, "q.xlsx", as_workbook(ROWS))
    monkeypatch.setattr(workbooks, "find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r'q\.xlsx: reading it needs openpyxl; run pip install "qa-lightning\[excel\]"'
    ):
        read(path)


# --- several files ---


@pytest.fixture
def parts(tmp_path):
    """The rows in three files of three formats, in a folder."""
    folder = tmp_path / "parts"
    folder.mkdir()
    write(folder, "a.json", as_json(ROWS[:1]))
    write(folder, "b.csv", as_table(ROWS[1:2]))
    write(folder, "c.jsonl.gz", as_lines(ROWS[2:]))
    write(folder, "notes.txt", b"of no interest")
    return folder


@pytest.mark.parametrize(
    "pattern",
    [
        "{0}/a.json,{0}/b.csv,{0}/c.jsonl.gz",
        " {0}/a.json , {0}/b.csv, {0}/c.jsonl.gz,",
        "{0}/[abc].*",
        "{0}/a*,{0}/?.*[vz]",
    ],
)
def test_several_files_are_read_as_one(parts, pattern):
    source = pattern.format(parts)
    assert source_kind(source) == "files"
    assert read(source) == ROWS
    assert source_fingerprint(source, "train").count("+") == 2


def test_a_list_of_files_may_be_longer_than_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [f"train-part-{number:03}.jsonl" for number in range(20)]
    for name in names:
        write(tmp_path, name, as_lines([]))
    assert source_kind(",".join(names)) == "files"
    with pytest.raises(InputError, match=r"^train-part-020\.jsonl: no such file"):
        source_kind(",".join([*names, "train-part-020.jsonl"]))


def test_patterns_may_be_relative_and_start_at_the_home_folder(parts, monkeypatch):
    monkeypatch.setenv("HOME", str(parts))
    monkeypatch.chdir(parts.parent)
    assert read("parts/[abc].*") == read("~/[abc].*") == read("**/[abc].*") == ROWS
    monkeypatch.chdir(parts)
    assert read("../parts/[abc].*") == read("[abc].*") == ROWS


def test_a_file_whose_name_looks_like_a_list_or_a_pattern_is_that_file(tmp_path):
    for name in ("a,b.json", "[ab].json", "what?.json"):
        assert source_files(str(write(tmp_path, name, as_json(ROWS)))) == [tmp_path / name]
        assert read(tmp_path / name) == ROWS


def test_files_with_other_columns_are_each_read_by_their_own(tmp_path):
    write(tmp_path, "a.json", as_json(ROWS[:2]))
    others = [
        {"qid": item["id"], "q": item["question"], "passage": item["context"], "answers": item["answers"]}
        for item in ROWS
    ]
    write(tmp_path, "b.csv", as_table(others[2:]))
    told = []
    assert read(tmp_path / "[ab].*", told=told) == ROWS
    assert told == [f"columns as in {tmp_path}/b.csv row 2: id from 'qid', question from 'q', context from 'passage'"]


# --- folders that datasets saved ---


def test_a_saved_dataset_reads_the_same_rows_and_has_no_splits(tmp_path):
    folder = str(tmp_path / "saved")
    Dataset.from_list(ROWS).save_to_disk(folder)
    assert source_kind(folder) == "folder"
    assert read(folder) == ROWS
    assert list(read_rows(folder, "validation")) == list(zip(place_names(folder, "validation"), ROWS, strict=True))
    assert not has_split(folder, "validation")
    assert source_fingerprint(folder, "train") == source_fingerprint(folder, "validation")


@pytest.mark.parametrize("how", ["saved again", "another working directory"])
def test_a_folder_that_changed_within_a_process_is_read_anew(tmp_path, monkeypatch, how):
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    Dataset.from_list(ROWS).save_to_disk("saved")
    before = source_fingerprint("saved", "train")
    assert read("saved") == ROWS
    if how == "saved again":
        shutil.rmtree("saved")
    else:
        monkeypatch.chdir("other")
    Dataset.from_list(ROWS[:1]).save_to_disk("saved")
    assert read("saved") == ROWS[:1]
    assert count_rows("saved", "train") == 1
    assert source_fingerprint("saved", "train") != before


@pytest.mark.parametrize("in_memory", [0, 1 << 30])
def test_a_saved_dataset_is_known_by_its_rows(tmp_path, monkeypatch, in_memory):
    """`datasets` takes a function that was edited for the one of before: its name is the same."""
    monkeypatch.setattr(datasets.config, "IN_MEMORY_MAX_SIZE", in_memory)
    seen = []
    for count in (1, 2, 2):
        made = Dataset.from_list(ROWS[:count])
        made._fingerprint = "0123456789abcdef"
        shutil.rmtree(tmp_path / "saved", ignore_errors=True)
        made.save_to_disk(tmp_path / "saved")
        seen.append(source_fingerprint(str(tmp_path / "saved"), "train"))
    assert seen[0] != seen[1] == seen[2]


SPLIT, WHOLE = {"train": ROWS[:1], "validation": ROWS[1:]}, ROWS


@pytest.mark.parametrize(
    ("contents", "found"), [((WHOLE, WHOLE), False), ((SPLIT, SPLIT), True), ((SPLIT, WHOLE), None)]
)
def test_of_several_files_all_bring_questions_to_validate_on_or_none(tmp_path, contents, found):
    paths = []
    for number, content in enumerate(contents):
        paths.append(str(tmp_path / f"{number}.json"))
        Path(paths[-1]).write_text(json.dumps(content if content is SPLIT else {"data": content}))
    source = ",".join(paths)
    if found is not None:
        assert has_validation(source) is found
        return
    (tmp_path / "2.json").write_text('{"train": [{')
    with pytest.raises(InputError, match=r"2\.json: not valid JSON"):  # and not that it has no split
        has_validation(f"{paths[0]},{tmp_path / '2.json'}")
    with pytest.raises(InputError, match=f"1 file of 2 with questions to validate on and {paths[1]} without; give"):
        has_validation(source)
    for call in (lambda: check_source(source), lambda: SquadDataModule(source, None, "tiny").prepare_data()):
        with pytest.raises(InputError, match="questions to validate on and"):
            call()


def place_names(folder, split):
    return [f"{folder} [{split}] row {number}" for number in range(1, len(ROWS) + 1)]


def test_a_saved_dataset_of_splits_gives_the_one_that_is_asked_for(tmp_path):
    folder = str(tmp_path / "saved")
    splits = {"train": Dataset.from_list(ROWS), "validation": Dataset.from_list(with_listed_answers(ROWS[1:]))}
    DatasetDict(splits).save_to_disk(folder)
    assert source_kind(folder) == "folder"
    assert read(folder) == ROWS
    assert [item["id"] for _, item in read_rows(folder, "validation")] == [item["id"] for item in ROWS[1:]]
    assert has_split(folder, "train")
    assert has_split(folder, "validation")
    assert source_fingerprint(folder, "train") != source_fingerprint(folder, "validation")


def test_a_saved_split_that_is_not_there_is_named_with_those_that_are(tmp_path):
    folder = str(tmp_path / "saved")
    DatasetDict({"train": Dataset.from_list(ROWS), "test": Dataset.from_list(ROWS)}).save_to_disk(folder)
    assert not has_split(folder, "validation")
    with pytest.raises(InputError, match=r"has no split 'validation'; it has 'train', 'test'"):
        read_rows(folder, "validation")


# --- texts stay as they are ---

TEXTS = {
    "Windows line ends": "One line.\r\nAda is here.\r\n\r\nAnother.",
    "Unix line ends": "One line.\nAda is here.\n\nAnother.",
    "old line ends": "One line.\rAda is here.\r\rAnother.",
    "mixed line ends": "One.\nTwo.\r\nThree.\rAda.\n\r",
    "white space around": " \t\u00a0Ada \n",
    "tabs and no-break spaces": "a\tb\u00a0Ada\u2003\u200bc",
    "composed": "caf\u00e9 Ada caf\u00e9",
    "decomposed": "cafe\u0301 Ada cafe\u0301",
    "double quotes": 'He said "Ada", then ""Ada"" and "',
    "separators": "Ada, Ben; Carl\tDora | Eve",
    "byte-order mark within": "Bob \ufeff Ada",
    "line separators of Unicode": "One\u2028Ada\u2029Two\u0085Three\x0bFour\x0cFive\x1cSix",
    "beyond the basic plane": "🚀🚀 𝔸da Ada 👩‍👩‍👧",
    "NUL": "Bob\0 Ada",
    "backslashes": r"C:\new\Ada \u0041da \"Ada\"",
}


def answered(text):
    place = text.rindex("Ada")
    return row(context=text, answers={"text": ["Ada", text], "answer_start": [place, 0]})


TABLES = ("csv", "semicolons", "tsv", "csv.gz")
PLACES = [
    pytest.param(form, text, id=f"{form}-{name}")
    for form in ("json", "nested", "jsonl", "parquet", *TABLES)
    for name, text in TEXTS.items()
    if name != "NUL" or form not in TABLES  # a table cannot hold it
]


@pytest.mark.parametrize(("form", "text"), PLACES)
def test_a_text_comes_out_as_it_went_in_and_answers_slice_it(tmp_path, form, text):
    item = answered(text)
    contents = {
        "json": (".json", as_json([item])),
        "nested": (".json", as_json(nested([item]))),
        "jsonl": (".jsonl", as_lines([item])),
        "csv": (".csv", as_table([item])),
        "semicolons": (".csv", as_table([item], ";")),
        "tsv": (".tsv", as_table([item], "\t")),
        "parquet": (".parquet", as_parquet([item])),
        "csv.gz": (".csv.gz", as_table([item], lineterminator="\n", quoting=csv.QUOTE_ALL)),
    }
    suffix, content = contents[form]
    (example,) = read(write(tmp_path, f"questions{suffix}", content))
    assert example == item


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(str.strip),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from(",;\t"),
    st.sampled_from(["\n", "\r\n"]),
)
def test_any_text_goes_through_a_table_unchanged(tmp_path_factory, texts, separator, line_end):
    rows = [row(id=str(number), context=text, answers=None) for number, text in enumerate(texts)]
    path = tmp_path_factory.mktemp("table") / "questions.csv"
    path.write_bytes(as_table(rows, separator, lineterminator=line_end, quoting=csv.QUOTE_ALL))
    assert [item["context"] for item in read(path)] == texts


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".json", ".jsonl", ".parquet"])
def test_ten_megabytes_in_one_text_are_read_whole(tmp_path, suffix):
    long = 'A "line", of words.\r\n' * (10 * 2**20 // 21)
    item = row(context=long + "Ada", answers={"text": ["Ada"], "answer_start": [len(long)]})
    make = {".csv": as_table, ".csv.gz": as_table, ".json": as_json, ".jsonl": as_lines, ".parquet": as_parquet}
    path = write(tmp_path, f"questions{suffix}", make[suffix]([item, row(id="q2")]))
    assert read(path) == [item, row(id="q2")]


def test_a_large_table_is_streamed(tmp_path):
    path = write(
        tmp_path, "questions.csv", as_table([row(id=str(number)) for number in range(3000)]) + b'"never closed'
    )
    rows = read_file(path)
    assert [next(rows)[1]["id"] for _ in range(3)] == ["0", "1", "2"]


# --- dictionaries of Arrow, and other tables that writers make ---


def test_parquet_of_other_writers_is_read_too(tmp_path):
    table = pa.table(
        {
            "id": pa.array(range(4), pa.int64()),
            "question": pa.array([item["question"] for item in ROWS]).dictionary_encode(),
            "context": pa.array([item["context"] for item in ROWS], pa.large_string()),
            "answers": pa.array([json.dumps(item["answers"]) for item in ROWS]),
            "is_impossible": pa.array([0.0, float("nan"), None, 1.0]),
            "answers.text": pa.array([["of no interest"]] * 4),
            "asked": pa.array([2**62] * 4, pa.timestamp("us")),  # a year that Python cannot represent
        }
    )
    sink = io.BytesIO()
    pq.write_table(table, sink)
    expected = [item | {"id": str(number)} for number, item in enumerate(ROWS)]
    assert read(write(tmp_path, "questions.parquet", sink.getvalue())) == expected


def test_answers_of_a_table_may_be_in_either_shape(tmp_path):
    rows = [ROWS[0], ROWS[1] | {"answers": listed_answers(ROWS[1])}, ROWS[2], ROWS[3] | {"answers": ""}]
    assert read(write(tmp_path, "questions.csv", as_table(rows))) == ROWS
