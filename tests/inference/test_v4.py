"""Compare the pipeline, call by call, with the recorded one of transformers 4.57.6; see tests/golden/record_v4.py."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qa_lightning import QuestionAnsweringPipeline
from qa_lightning.models.load_errors import quiet_transformers
from tests.helpers import v4_calls, v4_cases, v4_models
from tests.helpers.paths import ROOT

GOLDEN = ROOT / "tests" / "golden" / "v4_pipeline.json.gz"
OLD_PYTHON = "QA_LIGHTNING_V4_PYTHON"
Answer = Callable[..., v4_calls.Outcome]


def read(path: Path) -> list[v4_calls.Call]:
    return json.loads(gzip.decompress(path.read_bytes()).decode("utf-8", "surrogatepass"))["calls"]


@pytest.fixture(scope="module")
def recorded() -> list[v4_calls.Call]:
    """All golden calls, each with its recorded outcome."""
    return read(GOLDEN)


@pytest.fixture(scope="module")
def answer() -> Answer:
    """A function that makes a call on the pipeline of the call's model, by default with ``compat="v4"``."""
    pipes: dict[tuple[str, Any], QuestionAnsweringPipeline] = {}

    def ask(call: v4_calls.Call, compat: Any = "v4") -> v4_calls.Outcome:
        if (call["model"], compat) not in pipes:
            with quiet_transformers():
                model, tokenizer = v4_models.load(call["model"])
            pipes[call["model"], compat] = QuestionAnsweringPipeline(
                model=model, tokenizer=tokenizer, device="cpu", compat=compat
            )
        return v4_calls.outcome(pipes[call["model"], compat], call)

    return ask


def single_answers(returned: Any) -> Iterator[dict[str, Any]]:
    """Yield every answer dict in what a call returned, however nested."""
    if isinstance(returned, dict):
        yield returned
    else:
        for part in returned:
            yield from single_answers(part)


@pytest.mark.parametrize("group", ["settings", "text", "form", "refused"])
def test_v4_mode_answers_and_refuses_as_recorded(recorded, answer, group) -> None:
    calls = [call for call in recorded if call["name"].startswith(group) and call["model"] != "bert-left"]
    assert len(calls) > 50
    verdicts = {call["name"]: v4_calls.compare(call, call["outcome"], answer(call)) for call in calls}
    wrong = {name: verdict.reason for name, verdict in verdicts.items() if verdict.kind == "differs"}
    assert not wrong
    kinds = Counter(verdict.kind for verdict in verdicts.values())
    # Equal scores come in the recorded order, except those that differ only by rounding.
    assert kinds["ties"] <= 0.01 * len(calls), kinds
    assert kinds["fillers"] <= 0.2 * len(calls), kinds
    assert kinds["accident"] <= sum("accident" in call or "PanicException" in str(call["outcome"]) for call in calls)


def test_with_padding_on_the_left_answers_are_in_the_context_and_were_not(recorded, answer) -> None:
    """With left padding the old pipeline also took question words, and looked up their offsets in the context."""
    lost = 0
    for call in (call for call in recorded if call["model"] == "bert-left"):
        context = call["arguments"]["context"]
        for compat in ("v4", None):
            if not context.strip() and compat is None:
                continue  # an error by default
            for found in single_answers(answer(call, compat)["returned"]):
                assert 0 <= found["start"] <= found["end"] <= len(context)
                assert found["answer"] == context[found["start"] : found["end"]]
        lost += any(
            found["start"] > found["end"] or (not found["answer"] and found["end"])
            for found in single_answers(call["outcome"]["returned"])
        )
    assert lost > 0


def test_by_default_calls_have_the_recorded_forms_and_errors(recorded, answer) -> None:
    """By default scores are probabilities, and lists are shorter rather than filled with empty answers.

    An error has the recorded class or one derived from it. Two kinds of calls that raised then are answered now.
    """
    # Several contexts for one question, and a stride that left windows no room to advance.
    answered = ("Arguments can't be understood", "tokenizer stride set to 40")
    wrong = {}
    for number, call in enumerate(recorded):
        if call["name"].startswith("settings") and number % 4:
            continue
        old, own = call["outcome"], answer(call, compat=None)
        if "accident" in call or call["name"].startswith(("settings", "text")) or "unheard_of" in call["settings"]:
            held = is_sound(own, refusal_of(call))
        elif "raised" in own:
            held = old.get("raised", ["nothing"])[0] in own["raised"]
        elif "raised" in old:
            held = isinstance(call["arguments"], dict) and old["message"].startswith(answered)
        else:
            held = form_of(old["returned"]) == form_of(own["returned"])
        if not held:
            wrong[call["name"]] = (call["arguments"], call["settings"], old, own)
    assert not wrong


# Settings that are errors by default, whatever the old pipeline did -> the message.
REFUSED_SETTINGS = {
    ("max_answer_len", 0): "max_answer_len parameter should be >= 1 (got 0)",
    ("max_answer_len", -3): "max_answer_len parameter should be >= 1 (got -3)",
    ("max_answer_len", 2.5): "max_answer_len is 2.5, of type float; pass an int",
    ("max_seq_len", 0): "max_seq_len parameter should be >= 1 (got 0)",
    ("max_seq_len", 3): "max_seq_len 3 leaves no room for a question and a context beside 3 special tokens",
    ("max_seq_len", 300): "max_seq_len 300 is more than the model's 192 positions",
    ("doc_stride", -1): "doc_stride parameter should be >= 0 (got -1)",
    ("doc_stride", "4"): "doc_stride is '4', of type str; pass an int",
    ("batch_size", 0): "batch_size is 0; pass an int of at least 1",
    ("top_k", "3"): "top_k is '3', of type str; pass an int",
    ("unheard_of", 1): "unknown argument 'unheard_of'; known are top_k, ",
}


def refusal_of(call: v4_calls.Call) -> str | None:
    """The message of the error that a call must raise by default; None if it must be answered."""
    arguments = call["arguments"]
    for item in arguments if isinstance(arguments, list) else [arguments]:
        for name in ("question", "context"):
            if item[name] == "":
                return f"`{name}` cannot be empty"
            if item[name] == [5]:
                return f"`{name}` is of type int, '5'; pass a str"
            if isinstance(item[name], str) and item[name].isspace():
                return f"`{name}` has only white space"
            if "\ud800" in item[name]:
                return f"`{name}` holds half of a surrogate pair"
    return next((REFUSED_SETTINGS[one] for one in call["settings"].items() if one in REFUSED_SETTINGS), None)


def is_sound(outcome: v4_calls.Outcome, refusal: str | None) -> bool:
    """Whether a call returned probabilities or, if it must be refused, raised the expected ValueError or TypeError."""
    if refusal is None:
        return "returned" in outcome and all(
            0 <= found["score"] <= 1 + 1e-6 for found in single_answers(outcome["returned"])
        )
    return bool({"ValueError", "TypeError"} & {*outcome.get("raised", ())}) and refusal in outcome["message"]


def form_of(part: Any) -> Any:
    """The nesting and the keys of a result, without the values."""
    return sorted(part) if isinstance(part, dict) else [form_of(one) for one in part]


def test_no_other_error_is_sound() -> None:
    other = {"raised": ["ValueError", "Exception"], "message": "operands could not be broadcast together"}
    answered = {"returned": {"score": 0.5}}
    refused = {"raised": ["InputError", "ValueError", "Exception"], "message": REFUSED_SETTINGS["max_answer_len", 0]}
    refusal = refusal_of({"arguments": v4_cases.ONE, "settings": {"top_k": 1, "max_answer_len": 0}})
    assert is_sound(refused, refusal)
    assert is_sound(answered, refusal_of({"arguments": v4_cases.ONE, "settings": {"top_k": 1}}))
    assert not is_sound(other, refusal)
    assert not is_sound(answered, refusal)
    assert not is_sound(other, None)
    assert not is_sound({"returned": {"score": 1.5}}, None)


def test_the_golden_file_has_every_case(recorded) -> None:
    assert [call["name"] for call in recorded] == [call["name"] for call in v4_cases.golden_calls()]
    kinds = Counter(next(iter(call["outcome"])) for call in recorded)
    assert kinds["returned"] > 200
    assert kinds["raised"] > 50


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, "equal"),
        ({0: {"score": 0.5 + 5e-6}}, "equal"),
        ({0: {"score": 0.5002}}, "differs"),
        ({0: {"start": 4}}, "differs"),
        ({1: {"answer": "a city"}}, "differs"),
        ({1: {"start": 12, "end": 16}, 2: {"start": 8, "end": 11}}, "ties"),  # two answers of equal score swapped
        ({3: {"start": 1}}, "fillers"),
    ],
)
def test_the_comparison_sees_what_differs(changes, kind) -> None:
    scores = (0.5, 0.2, 0.2, 0.0)
    offsets = ((0, 3), (8, 11), (12, 16), (2, 2))
    recorded = [
        {"score": score, "start": start, "end": end, "answer": "Oslo"}
        for score, (start, end) in zip(scores, offsets, strict=True)
    ]
    found = [answer | changes.get(number, {}) for number, answer in enumerate(recorded)]
    assert v4_calls.compare({}, {"returned": recorded}, {"returned": found}).kind == kind
    assert v4_calls.compare({}, {"returned": recorded}, {"returned": recorded[:-2]}).kind == "differs"


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get(OLD_PYTHON), reason=f"no interpreter with transformers 4.57.6 in {OLD_PYTHON}")
def test_the_golden_file_is_what_the_old_pipeline_returns(recorded, tmp_path) -> None:
    again = tmp_path / "again.json.gz"
    script = GOLDEN.with_name("record_v4.py")
    subprocess.run([os.environ[OLD_PYTHON], str(script), "--output", str(again)], check=True, timeout=250)
    for call, new in zip(recorded, read(again), strict=True):
        assert v4_calls.compare(call, call["outcome"], new["outcome"]).kind in ("equal", "ties"), call["name"]
