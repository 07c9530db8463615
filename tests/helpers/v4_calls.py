"""Calls of the question answering pipeline, as data: made, and what came of them compared.

Only the standard library and torch: the recorder runs under transformers 4.57. A call is ``{"name", "form",
"arguments", "settings"}``, all of it JSON; `ask` makes it, `outcome` keeps what came of it. One whose recorded outcome
says nothing of the call, only of the inside of a library, is marked with ``"accident"``: what it is an accident of.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import Dataset

Call = dict[str, Any]
Outcome = dict[str, Any]
TOLERANCE = 1e-5  # of scores; of those above 1, sums over windows, in proportion: processors round differently
TIE = 1e-5  # two scores are equal where they differ by no more than this share of the larger one


class Items(Dataset):
    """Questions as a ``torch.utils.data.Dataset``."""

    def __init__(self, items: Sequence[dict[str, str]]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, str]:
        return self.items[index]


def ask(pipe: Any, call: Call) -> Any:
    """Make a call, in its form."""
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
    """What a call returned, ``{"returned"}``, or raised, ``{"raised", "message"}``; ``warnings`` are their kinds.

    ``raised`` names the exception's class and the classes that it is derived from. A panic of the tokenizer's Rust code
    is a BaseException and no Exception: it is kept like any other.
    """
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        kept: Outcome
        try:
            kept = {"returned": ask(pipe, call)}
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            kinds = [kind.__name__ for kind in type(error).__mro__]
            kept = {"raised": kinds[: kinds.index("BaseException")], "message": str(error)}
    kinds = {warning.category.__name__ for warning in warned if warning.category in (FutureWarning, UserWarning)}
    return kept | ({"warnings": sorted(kinds)} if kinds else {})


@dataclass(frozen=True)
class Verdict:
    """How an outcome stands to the recorded one.

    Attributes:
        kind: ``equal``; ``ties``: equal but for the order of equal scores, or for which of them came last; ``fillers``:
            equal but for answers of score 0; ``accident``: something sound in place of an accident; ``differs``.
        reason: in what they differ.
        gap: the largest difference of scores, as `TOLERANCE` counts.
    """

    kind: str
    reason: str = ""
    gap: float = 0.0


def compare(call: Call, recorded: Outcome, found: Outcome) -> Verdict:
    """Hold an outcome against the recorded one.

    An error must be of the recorded class, or derived from it, with the same message. In place of an accident, a panic
    of Rust code among them, another answer is as good, and so is a ValueError or an error of the same class.
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
    return recorded["raised"][0] in found["raised"] and recorded["message"] == found["message"]


def _shown(kept: Outcome) -> str:
    if "raised" in kept:
        return f"{kept['raised'][0]}: {kept['message'][:200]}"
    return str(kept["returned"])[:200]


def _without_fillers(returned: Any) -> Any:
    """What is left without answers of score 0: tokens in the wrong order or too far apart, where spans run out.

    Which of those pairs were taken hung on the padding of the batch.
    """
    if isinstance(returned, dict):
        return [] if returned["score"] == 0 else [returned]
    if all(isinstance(answer, dict) for answer in returned):
        return [answer for answer in returned if answer["score"]]
    return [_without_fillers(part) for part in returned]


def same_answers(recorded: Any, found: Any) -> Verdict:
    """Compare what two calls returned: an answer, a list of answers, or a list with one of these per question."""
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
    for place, (one, other) in enumerate(zip(recorded, found, strict=True)):
        if set(one) != set(other):
            return Verdict("differs", f"keys {sorted(one)} -> {sorted(other)}")
        gap = max(gap, abs(one["score"] - other["score"]) / max(1.0, abs(one["score"])))
        if not gap <= TOLERANCE:
            return Verdict("differs", f"answer {place}: {one} -> {other}", gap)
    places, others = ([(answer["start"], answer["end"], answer["answer"]) for answer in of] for of in (recorded, found))
    if places == others:
        return Verdict("equal", gap=gap)
    begin = 0
    while begin < len(recorded):
        end = begin + 1
        while end < len(recorded) and _tie(recorded[end - 1]["score"], recorded[end]["score"]):
            end += 1
        # Of equal scores at the end of the list, some may have been left out: others, here and there.
        if sorted(places[begin:end]) != sorted(others[begin:end]) and end < len(recorded):
            return Verdict("differs", f"answers {begin} to {end - 1}: {recorded[begin:end]} -> {found[begin:end]}", gap)
        begin = end
    last = recorded[-1], found[-1]
    if not _tie(*(answer["score"] for answer in last)):
        return Verdict("differs", f"the last answer: {last[0]} -> {last[1]}", gap)
    return Verdict("ties", f"{places} -> {others}", gap)


def _tie(one: float, other: float) -> bool:
    return abs(one - other) <= TIE * max(abs(one), abs(other))
