"""Calls of the question answering pipeline as data: make them, record their outcomes, compare outcomes.

Imports only the standard library and torch, because the recorder runs under transformers 4.57. A call is a JSON dict
``{"name", "form", "arguments", "settings"}``; `ask` makes it, `outcome` records the result. If the recorded outcome
comes from an accident inside a library and not from the contract, the call has an ``"accident"`` key with the cause.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import Dataset

Call = dict[str, Any]
Outcome = dict[str, Any]
# Allowed difference of scores, as processors round differently; relative for scores above 1, which are sums.
TOLERANCE = 1e-5
GONE = "argument needs to be of type (SquadExample, dict)"  # a message about a class that transformers 5 has no more
TIE = 1e-5  # two scores count as equal if they differ by at most this share of the larger one


class Items(Dataset):
    """Questions as a ``torch.utils.data.Dataset``."""

    def __init__(self, items: Sequence[dict[str, str]]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, str]:
        return self.items[index]


def ask(pipe: Any, call: Call) -> Any:
    """Make a call in its form."""
    arguments, settings = call["arguments"], call["settings"]
    match call["form"]:
        case "keywords":
            return pipe(**arguments, **settings)
        case "positional":
            return pipe(*arguments, **settings)
        case "tuple":
            return pipe(tuple(arguments), **settings)
        case "generator":
            return list(pipe((item for item in arguments), **settings))
        case "dataset":
            return list(pipe(Items(arguments), **settings))
    raise ValueError(f"no such form of call: {call['form']}")


def outcome(pipe: Any, call: Call) -> Outcome:
    """Make a call and record ``{"returned"}``, or ``{"raised", "message"}``, and the classes of its ``warnings``.

    ``raised`` lists the exception's class and its base classes. A panic of the tokenizer's Rust code is not derived
    from Exception, only from BaseException; it is recorded like any other.
    """
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        recorded: Outcome
        try:
            recorded = {"returned": ask(pipe, call)}
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            kinds = [kind.__name__ for kind in type(error).__mro__]
            recorded = {"raised": kinds[: kinds.index("BaseException")], "message": str(error)}
    kinds = {warning.category.__name__ for warning in warned if warning.category in (FutureWarning, UserWarning)}
    return recorded | ({"warnings": sorted(kinds)} if kinds else {})


@dataclass(frozen=True)
class Verdict:
    """The result of comparing an outcome with the recorded one.

    Attributes:
        kind: ``equal``; ``ties``: equal except for the order of equal scores, or for which of them were cut off at the
            end; ``fillers``: equal except for answers of score 0; ``accident``: a sound outcome where the recorded
            one is an accident; ``differs``.
        reason: the difference.
        gap: the largest difference of scores, measured as for `TOLERANCE`.
    """

    kind: str
    reason: str = ""
    gap: float = 0.0


def compare(call: Call, recorded: Outcome, found: Outcome) -> Verdict:
    """Compare an outcome with the recorded one.

    An error must have the recorded class, or one derived from it, and the same message, except for `GONE`. Where an
    accident was recorded, any answer, ValueError or error of the same class is accepted too. A panic of Rust code is an
    accident for which only errors are accepted.
    """
    if "returned" in recorded and "returned" in found:
        verdict = same_answers(recorded["returned"], found["returned"])
        filled = verdict.kind != "equal" and same_answers(
            *(_without_fillers(of["returned"]) for of in (recorded, found))
        )
        if filled and filled.kind == "equal":
            return Verdict("fillers", verdict.reason, filled.gap)
        if verdict.kind != "differs":
            return verdict
    elif _same_error(recorded, found):
        return Verdict("equal")
    else:
        verdict = Verdict("differs", f"{_shown(recorded)} -> {_shown(found)}")
    panicked = "raised" in recorded and recorded["raised"][0] == "PanicException"
    sound = "returned" in found or bool(
        found["message"] and {"ValueError", *recorded.get("raised", ())[:1]} & {*found["raised"]}
    )
    if sound and ("accident" in call or (panicked and "raised" in found)):
        return Verdict("accident", verdict.reason)
    return verdict


def _same_error(recorded: Outcome, found: Outcome) -> bool:
    if "raised" not in recorded or "raised" not in found:
        return False
    if recorded["raised"][0] not in found["raised"]:
        return False
    if recorded["message"].endswith(GONE):
        return GONE not in found["message"] and "pass a dict" in found["message"]
    return recorded["message"] == found["message"]


def _shown(result: Outcome) -> str:
    if "raised" in result:
        return f"{result['raised'][0]}: {result['message'][:200]}"
    return str(result["returned"])[:200]


def _without_fillers(returned: Any) -> Any:
    """Drop answers of score 0: pairs of tokens in the wrong order or too far apart, which 4.57 took when spans ran out.

    Which of these pairs it took depended on the padding of the batch.
    """
    if isinstance(returned, dict):
        return [] if returned["score"] == 0 else [returned]
    if all(isinstance(answer, dict) for answer in returned):
        return [answer for answer in returned if answer["score"]]
    return [_without_fillers(part) for part in returned]


def same_answers(recorded: Any, found: Any) -> Verdict:
    """Compare the results of two calls: an answer, a list of answers, or a list of these with one per question."""
    if not isinstance(found, type(recorded)):
        return Verdict("differs", f"{type(recorded).__name__} -> {type(found).__name__}: {str(found)[:200]}")
    if isinstance(recorded, dict):
        return _same_list([recorded], [found])
    if len(recorded) != len(found):
        return Verdict(
            "differs", f"{len(recorded)} -> {len(found)} answers: {str(recorded)[:200]} -> {str(found)[:200]}"
        )
    if all(isinstance(answer, dict) for answer in (*recorded, *found)):
        return _same_list(recorded, found)
    parts = [same_answers(one, other) for one, other in zip(recorded, found, strict=True)]
    worst = max(parts, key=lambda part: ("equal", "ties", "differs").index(part.kind))
    return Verdict(worst.kind, worst.reason, max(part.gap for part in parts))


def _same_list(recorded: list[dict[str, Any]], found: list[dict[str, Any]]) -> Verdict:
    gap = 0.0
    for index, (one, other) in enumerate(zip(recorded, found, strict=True)):
        if set(one) != set(other):
            return Verdict("differs", f"keys {sorted(one)} -> {sorted(other)}")
        gap = max(gap, abs(one["score"] - other["score"]) / max(1.0, abs(one["score"])))
        if not gap <= TOLERANCE:
            return Verdict("differs", f"answer {index}: {one} -> {other}", gap)
    spans, others = ([(answer["start"], answer["end"], answer["answer"]) for answer in of] for of in (recorded, found))
    if spans == others:
        return Verdict("equal", gap=gap)
    begin = 0
    while begin < len(recorded):
        end = begin + 1
        while end < len(recorded) and _tie(recorded[end - 1]["score"], recorded[end]["score"]):
            end += 1
        # Equal scores at the end of the list may be cut off, and each side may keep different ones.
        if sorted(spans[begin:end]) != sorted(others[begin:end]) and end < len(recorded):
            return Verdict("differs", f"answers {begin} to {end - 1}: {recorded[begin:end]} -> {found[begin:end]}", gap)
        begin = end
    last = recorded[-1], found[-1]
    if not _tie(*(answer["score"] for answer in last)):
        return Verdict("differs", f"the last answer: {last[0]} -> {last[1]}", gap)
    return Verdict("ties", f"{spans} -> {others}", gap)


def _tie(one: float, other: float) -> bool:
    return abs(one - other) <= TIE * max(abs(one), abs(other))
