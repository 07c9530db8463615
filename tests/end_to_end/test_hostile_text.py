"""What stands in data does nothing to a terminal, a log, a page or a card: it is shown. Files of data keep it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from qa_lightning.errors import InputError
from qa_lightning.export.card import model_card
from qa_lightning.wording import visible
from tests.helpers.data import make_rows
from tests.helpers.paths import ROOT

CLEAR = "\x1b[2J\x1b]0;owned\x07"  # clears the screen, and renames the window
HOSTILE = f"{CLEAR}\r\b\x9b31m\u202edlrow\u2066\u2028\x7f\nerror: all is lost"
NAME = f"rows{CLEAR}\r\n\x9b31m\u202e"
HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")

# Commands one after the other, in one process, which saves the imports; each as its entry point calls it.
SEVERAL = """import json, sys
from qa_lightning.cli.console import run_command
from qa_lightning.cli.main import dispatch
for words in json.loads(sys.argv[1]):
    try:
        run_command(lambda: dispatch(words))
    except SystemExit as ended:
        print(f"-- status {ended.code}", flush=True)
"""


def hostile_rows(count: int) -> list[dict]:
    """Rows whose every text would do something to a terminal; the answer, too."""
    rows = []
    for row in make_rows(count, unanswerable=count // 10):
        context = f"{HOSTILE} {row['context']}"
        answers = {"text": [], "answer_start": []}
        if row["answers"]["text"]:
            answers = {"text": [HOSTILE], "answer_start": [0]}
        rows.append(
            {"id": f"{row['id']}{HOSTILE}", "question": f"Who{HOSTILE} ?", "context": context, "answers": answers}
        )
    return rows


def assert_shown(output: bytes) -> str:
    """Nothing acts on a terminal, no line is faked, and yet it is there to be seen."""
    text = output.decode("utf-8", "surrogateescape")
    assert not (found := HIDDEN.search(text)), text[max(0, found.start() - 200) : found.start() + 50]
    assert not [line for line in text.splitlines() if line.startswith("error: all is lost")]
    assert "\\x1b[2J" in text
    return text


@pytest.mark.slow
def test_no_command_lets_data_act_on_the_terminal(tmp_path, model_folder) -> None:
    rows = hostile_rows(40)
    folder = tmp_path / "in"
    folder.mkdir()
    data = folder / f"{NAME}.json"
    data.write_text(json.dumps({"data": rows}))
    bad = folder / f"bad{NAME}.json"
    moved = {**rows[0], "answers": {"text": [HOSTILE], "answer_start": [1]}}
    halved = {**rows[1], "question": f"\ud800{HOSTILE}"}
    repeated = [{**rows[2], "answers": {"text": [], "answer_start": []}}, {**rows[2], "id": f"again{HOSTILE}"}]
    bad.write_text(json.dumps({"data": [moved, halved, *repeated, {**rows[3], HOSTILE: 1, "context": None}]}))
    odds = folder / f"odds{NAME}.json"
    odds.write_text(json.dumps({HOSTILE: "no number"}))
    answers = folder / f"answers{NAME}.json"
    answers.write_text(json.dumps({row["id"]: "Rome" for row in rows[1:]}))
    repairable = folder / f"repairable{NAME}.json"
    repairable.write_text(json.dumps({"data": [moved, *rows[1:]]}))
    report, written = folder / f"report{NAME}.json", folder / f"written{NAME}"
    sizes = ("--data.max_length", "96", "--data.doc_stride", "12", "--data.max_question_length", "32")
    train = ("train", "--data.validation", str(data), "--model.model_name", model_folder, *sizes)
    train = (*train, "--trainer.accelerator", "cpu", "--trainer.max_epochs", "1", "--data.batch_size", "20")
    model = "lightning_logs/version_0/model"
    ended = subprocess.run(
        [
            *(sys.executable, "-c", SEVERAL),
            json.dumps(
                [
                    ("check-data", str(data), "--model", model_folder, "--json", str(report)),
                    ("check-data", str(bad)),
                    (*train, "--data.dataset", str(repairable), "--data.on_bad_rows", "repair"),
                    (*train, "--data.dataset", str(bad)),
                    (*train, "--data.dataset", str(folder / f"none{NAME}.json")),
                    (
                        "evaluate",
                        "--model",
                        model,
                        "--data",
                        str(data),
                        "--output_dir",
                        str(written),
                    ),
                    ("evaluate", "--predictions", str(answers), "--data", str(data)),
                    ("evaluate", "--predictions", str(answers), "--data", str(data), "--null_odds", str(odds)),
                    (
                        "predict",
                        "--model",
                        model_folder,
                        "--question",
                        "Who ?",
                        "--context",
                        "Ro\x9b\x1bme",
                    ),
                    (
                        "predict",
                        "--model",
                        model,
                        "--input",
                        str(data),
                        "--output",
                        str(folder / NAME),
                    ),
                    ("predict", "--model", f"no{NAME}", "--question", HOSTILE, "--context", HOSTILE),
                    (f"comm{HOSTILE}",),
                    ("check-data", str(data), f"--fl{HOSTILE}", "1"),
                    ("train", f"--data.{HOSTILE}", HOSTILE),
                    ("train", "--config", f"conf{NAME}"),
                ]
            ),
        ],
        capture_output=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "QA_LIGHTNING_CACHE": str(tmp_path / "cache")},
        timeout=300,
    )
    said, errors = assert_shown(ended.stdout), assert_shown(ended.stderr)
    assert "Traceback" not in errors
    statuses = re.findall(r"^-- status (\d+)$", said, re.MULTILINE)
    assert "".join(statuses) == "010220020022222", said + errors
    assert "ask it:" in said
    assert "answer  Ro\\x9b\\x1bme\n" in said  # one word for the tokenizer, so the one answer that there can be
    for path in tmp_path.rglob("repaired.txt"):
        assert_shown(path.read_bytes())
    run = tmp_path / "lightning_logs" / "version_0"
    events = EventAccumulator(str(run), size_guidance={"tensors": 0}).Reload()
    (table,) = events.Tensors("val/samples/text_summary")[-1].tensor_proto.string_val
    assert_shown(re.sub(rb"\\([\\\[\]])", rb"\1", table))  # Markdown's own escapes
    card = str(model_card(run / "model", "someone/something"))
    assert not HIDDEN.search(card)
    assert "rows\\x1b" in card
    ids = {row["id"] for row in rows}  # data is data
    assert set(json.loads((written / "predictions.json").read_text())) == ids
    assert {json.loads(line)["id"] for line in (folder / NAME).read_text("utf-8").split("\n")[:-1]} == ids
    assert json.loads(report.read_text())["source"] == str(data)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, ö, 東京, عربي, 👩‍👩‍👧, \u200f, a\tb, C:\\new", None),
        ("\x1b[2J\x07\r\b\x7f", r"\x1b[2J\x07\r\x08\x7f"),
        ("\x85\x9b", r"\x85\x9b"),
        ("a\nb", r"a\nb"),
        ("\u202e\u2066\u2028\u2029", r"\u202e\u2066\u2028\u2029"),
        ("\ud800 \udcff", r"\ud800 \udcff"),
    ],
)
def test_what_acts_without_being_seen_is_shown_and_nothing_else_changes(text, shown) -> None:
    assert visible(text) == (text if shown is None else shown)
    assert visible(visible(text)) == visible(text)
    assert visible(f"{text}\n{text}", lines=True).split("\n") == [
        visible(part) for part in f"{text}\n{text}".split("\n")
    ]


def test_an_error_has_one_line_a_problem(tmp_path) -> None:
    error = InputError([f"{HOSTILE}: the first", "the second"])
    assert str(error).split("\n") == [f"{visible(HOSTILE)}: the first", "the second"]


@pytest.mark.slow
def test_a_terminal_that_has_few_letters_gets_escapes_for_the_others(tmp_path, model_folder) -> None:
    path = tmp_path / "東京.json"
    path.write_text(json.dumps({"data": make_rows(3)}), encoding="utf-8")
    ended = subprocess.run(
        [sys.executable, "-m", "qa_lightning", "evaluate", "--model", model_folder, "--data", str(path)],
        capture_output=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
        timeout=200,
    )
    assert ended.returncode == 0, ended.stderr
    assert b"\\u6771\\u4eac.json" in ended.stdout
