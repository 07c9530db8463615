"""The cases that transformers 4.57.6 tests its own question answering pipeline with, in our words.

Source: ``tests/pipelines/test_pipelines_question_answering.py`` of transformers 4.57. Imports nothing newer than 4.57:

    v4/bin/python tests/helpers/v4_own_cases.py FOLDER ...    # prints the cases that fail, for a model in each folder
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

QUESTION = "Where was the bakery founded?"
CONTEXT = "The bakery in Oslo was founded by Anna in 1999."
ONE = {"question": QUESTION, "context": CONTEXT}
KINDS = {"score": float, "start": int, "end": int, "answer": str}


def is_answer(found: Any) -> bool:
    """Whether a result is one answer, with every key and each of its type."""
    return isinstance(found, dict) and {name: type(value) for name, value in found.items()} == KINDS


def are_answers(found: Any, count: int) -> bool:
    """Whether a result is a list of so many answers."""
    return isinstance(found, list) and len(found) == count and all(map(is_answer, found))


def rounded(found: dict[str, Any]) -> dict[str, Any]:
    """An answer with the score that is compared: three digits."""
    return {**found, "score": round(found["score"], 3)}


def refuses(pipe: Any, kind: type[Exception], *args: Any, **keywords: Any) -> bool:
    """Whether a call raises this kind of error."""
    try:
        pipe(*args, **keywords)
    except kind:
        return True
    return False


def fewer_or(pipe: Any, count: int) -> bool:
    """Whether ``top_k`` gives so many answers; by default, without those that only fill the list."""
    found = pipe(**ONE, top_k=count)
    exact = getattr(pipe, "compat", "v4") == "v4"
    return are_answers(found, count) if exact else 1 < len(found) <= count and are_answers(found, len(found))


def same_in_batches(pipe: Any) -> bool:
    """Whether a text of several windows gets the same answer in batches."""
    if pipe.tokenizer.pad_token_id is None:
        pipe.tokenizer.pad_token_id = pipe.model.config.eos_token_id
    long = {"question": QUESTION, "context": CONTEXT * 20}
    alone, together = pipe(**long), pipe(**long, batch_size=2)
    return is_answer(alone) and rounded(alone) == rounded(together)


def stands_large_logits(pipe: Any) -> bool:
    """Whether a replaced ``postprocess`` takes part, and the softmax of huge logits overflows nowhere."""
    real = pipe.postprocess

    def enlarged(outputs: Any, top_k: int = 1, handle_impossible_answer: bool = False, max_answer_len: int = 15) -> Any:
        for output in outputs:
            output["start"], output["end"] = output["start"] * 1e6, output["end"] * 1e6
        return real(
            outputs,
            top_k=top_k,
            handle_impossible_answer=handle_impossible_answer,
            max_answer_len=max_answer_len,
        )

    plain = pipe(**ONE)
    pipe.postprocess = enlarged
    try:
        found = pipe(**ONE)
    finally:
        pipe.postprocess = real
    return is_answer(found) and found["score"] != plain["score"] and 0 <= found["score"] <= 1.0001


def all_equal(pipe: Any) -> bool:
    """Whether ten questions from a generator, sixteen a batch, get one answer."""
    found = [rounded(answer) for answer in pipe((ONE for _ in range(10)), batch_size=16)]
    return found == [rounded(pipe(**ONE))] * 10


def cases() -> Iterator[tuple[str, Callable[[Any], bool]]]:
    """Name of each case, and a function that tells whether a pipeline passes it."""
    other = "In what field does Anna work?"
    yield "one question", lambda pipe: is_answer(pipe(**ONE))
    yield "no answer allowed", lambda pipe: is_answer(pipe(**ONE, handle_impossible_answer=True))
    yield "two questions, one context", lambda pipe: are_answers(pipe(question=[other] * 2, context=CONTEXT), 2)
    yield "pairs", lambda pipe: are_answers(pipe(question=[QUESTION, other], context=[CONTEXT, "Anna bakes bread."]), 2)
    yield "twenty answers", lambda pipe: fewer_or(pipe, 20)
    yield "several windows", lambda pipe: is_answer(pipe(question=QUESTION, context=CONTEXT * 20))
    yield "batches", same_in_batches
    yield "generator", all_equal
    yield "large logits", stands_large_logits
    taken: tuple[tuple[Any, dict[str, Any], int], ...] = (
        ((QUESTION, CONTEXT), {}, 1),
        ((), {"question": [QUESTION, QUESTION], "context": CONTEXT}, 2),
        ((), {"question": [QUESTION, QUESTION], "context": [CONTEXT, CONTEXT]}, 2),
        ((ONE,), {}, 1),
        (([ONE],), {}, 1),
        (([ONE, ONE],), {}, 2),
        ((), {"X": ONE}, 1),
        ((), {"X": [ONE]}, 1),
        ((), {"data": ONE}, 1),
    )
    for number, (args, keywords, count) in enumerate(taken):
        yield f"form {number}", partial(_takes, args, keywords, count)
    for number, (kind, args, keywords) in enumerate(_refused()):
        yield f"refused {number}", partial(_refuses, kind, args, keywords)


def _takes(args: Any, keywords: dict[str, Any], count: int, pipe: Any) -> bool:
    found = pipe(*args, **keywords)
    return is_answer(found) if count == 1 else are_answers(found, count)


def _refuses(kind: type[Exception], args: Any, keywords: dict[str, Any], pipe: Any) -> bool:
    return refuses(pipe, kind, *args, **keywords)


def _refused() -> Iterator[tuple[type[Exception], Any, dict[str, Any]]]:
    """Calls that raise: the kind of error, positional and keyword arguments."""
    for name in ONE:
        left = {key: text for key, text in ONE.items() if key != name}
        yield KeyError, (left,), {}
        yield KeyError, ([left],), {}
        for bad in (None, ""):
            broken = {**ONE, name: bad}
            yield ValueError, tuple(broken.values()), {}
            yield ValueError, (), broken
            yield ValueError, (broken,), {}
            yield ValueError, ([ONE, broken],), {}
    yield ValueError, (), {"question": {"This": "is odd"}, "context": CONTEXT}
    yield ValueError, (), {"question": [QUESTION] * 2, "context": [CONTEXT] * 3}
    yield ValueError, (), {"question": [QUESTION] * 3, "context": [CONTEXT] * 2}
    yield ValueError, (None,), {}
    yield ValueError, (), {"Y": None}
    yield ValueError, (1,), {}


def failed(pipe: Any) -> list[str]:
    """The names of the cases that a pipeline does not pass."""
    names = []
    for name, passes in cases():
        try:
            if not passes(pipe):
                names.append(name)
        except Exception as error:
            names.append(f"{name}: {type(error).__name__}: {str(error)[:80]}")
    return names


def main() -> None:
    """Build the old pipeline of each folder, and print what it does not pass."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import warnings

    from transformers import AutoModelForQuestionAnswering, AutoTokenizer, pipeline

    warnings.simplefilter("ignore")
    for folder in sys.argv[1:]:
        try:
            pipe = pipeline(
                "question-answering",
                model=AutoModelForQuestionAnswering.from_pretrained(folder),
                tokenizer=AutoTokenizer.from_pretrained(folder),
                framework="pt",
            )
        except Exception as error:
            print(f"{folder}: not loaded: {error}")
            continue
        print(f"{folder}: {len(list(cases()))} cases, failed: {failed(pipe)}")


if __name__ == "__main__":
    main()
