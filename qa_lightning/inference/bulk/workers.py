"""Predicts on one or several devices: turns chunks of questions into lines of JSON.

One device computes in this process. Several devices get a process each, with its own copy of the model. A chunk is
answered by one process alone, in batches that do not depend on the process, so any number of processes gives the same
lines; see `qa_lightning.workers`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from qa_lightning.decoding.decoder import BrokenLogitsError
from qa_lightning.decoding.predictions import Answer
from qa_lightning.errors import InputError, Voice, current_voice, one_line, speaking
from qa_lightning.inference.bulk.questions import Question
from qa_lightning.inference.bulk.several import SeveralTexts
from qa_lightning.inference.reader import Reader
from qa_lightning.models.computing.memory import is_out_of_memory
from qa_lightning.models.load_errors import NoMemoryError
from qa_lightning.wording import counted
from qa_lightning.workers import MOST_PROCESSES, Key, Worker, do_jobs, working

Chunks = Iterable[tuple[Key, Sequence[Question]]]
_CHARACTERS_TOGETHER = 1 << 22  # total length of contexts cut into windows at once: some hundred MB of tokens
_BATCHES_TOGETHER = 16  # batches per chunk; windows are sorted by length within a chunk, which leaves 5% of padding


class OutOfMemoryError(InputError):
    """Memory ran out while questions were answered; the message says what helps."""

    def of_a_run(self) -> InputError:
        """The error of a run that writes files: other values do not resume what these have begun."""
        return InputError(f"{self}, with --overwrite or another --output")


@dataclass(frozen=True)
class PredictSettings:
    """How questions are answered.

    Attributes:
        model: folder or name on the Hub; several, with commas between them, answer together.
        dtype: number type of the computation, by torch's name, such as ``bfloat16``.
        batch_size: windows per forward pass.
        threshold_file, raw_scores: see `reader.Reader.from_pretrained`.
        shares_memory: other processes that answer are on this machine, too.
    """

    model: str
    dtype: str
    batch_size: int
    threshold_file: Path | None = None
    raw_scores: bool = False
    shares_memory: bool = False

    @property
    def rows_together(self) -> int:
        """Number of rows in a chunk."""
        return _BATCHES_TOGETHER * self.batch_size

    def load(self, device: str | None) -> Reader:
        """Load the model onto a device; None takes the first GPU, or the CPU if there is none."""
        dtype = getattr(torch, self.dtype)
        try:
            return Reader.from_pretrained(self.model, device, dtype, self.threshold_file, self.raw_scores)
        except NoMemoryError:
            fixes = [*(["--dtype bfloat16"] if self.dtype == "float32" else []), "a device with more free memory"]
            where = "memory" if device in (None, "cpu") else f"memory of {device}"
            problem = f"--model {self.model} does not fit into the {where}; what helps: {' or '.join(fixes)}"
            raise OutOfMemoryError(problem) from None

    def answer(self, reader: Reader, questions: Sequence[Question]) -> bytes:
        """Answer questions: one JSON object per line, in order of ``questions``.

        Raises:
            InputError: see `answers`.
        """
        try:
            found = self.answers(reader, questions)
        except OutOfMemoryError as error:
            raise error.of_a_run() from None
        return "".join(json.dumps(one, ensure_ascii=False, allow_nan=False) + "\n" for one in found).encode()

    def answers(self, reader: Reader, questions: Sequence[Question]) -> list[dict[str, Any]]:
        """Answer questions: ``row``, ``id`` and what `Answer.as_json` gives, in order of ``questions``.

        A question with several contexts has ``document``, too: the name of the one that the offsets belong to.

        Raises:
            InputError: logits are not numbers.
            OutOfMemoryError: memory runs out.
        """
        found = []
        for part in _parts(questions):
            where = f"rows {part[0].row:,} to {part[-1].row:,}"
            try:
                answers = self._answers(reader, part)
            except BrokenLogitsError as error:
                of_rows = BrokenLogitsError([part[number].row for number in error.numbers], "rows")
                raise InputError(f"--model {self.model}: {of_rows}") from None
            except InputError as error:
                raise InputError(f"--model {self.model}, at {where}: {one_line(error, 500)}") from None
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                raise OutOfMemoryError(self._out_of_memory(where, reader.model.device)) from None
            found += [_with_answer(one, answer, reader) for one, answer in zip(part, answers, strict=True)]
        return found

    def _answers(self, reader: Reader, questions: Sequence[Question]) -> list[Answer]:
        texts, contexts = [one.question for one in questions], [one.context for one in questions]
        if not any(isinstance(context, SeveralTexts) for context in contexts):
            return reader.answer(texts, contexts, batch_size=self.batch_size)
        several = [context.texts if isinstance(context, SeveralTexts) else (context,) for context in contexts]
        return reader.asked.answer_each(texts, several, self.batch_size)

    def _out_of_memory(self, where: str, device: torch.device) -> str:
        fixes = [f"--batch_size {self.batch_size // 2}"] if self.batch_size > 1 else []
        fixes += ["--dtype bfloat16"] if self.dtype == "float32" and device.type == "cuda" else []
        fixes += ["fewer --devices"] if device.type == "cpu" and self.shares_memory else []
        what = f"out of memory on {device} at {where} with --batch_size {self.batch_size}, --dtype {self.dtype}"
        return f"{what}; what helps: {' or '.join(fixes) or 'more memory'}"


def _with_answer(question: Question, answer: Answer, reader: Reader) -> dict[str, Any]:
    values = {"row": question.row, "id": question.id, **answer.as_json(reader.settings.version_2)}
    if isinstance(question.context, SeveralTexts):
        values["document"] = None
        if answer.text:
            values["document"], values["start"] = question.context.place(answer.start)
            values["end"] = values["start"] + len(answer.text)
    return values


def _parts(questions: Sequence[Question]) -> Iterator[Sequence[Question]]:
    """Split questions so that the contexts of a part are not too long together; usually there is one part."""
    first = characters = 0
    for number, question in enumerate(questions):
        characters += len(question.context)
        if characters > _CHARACTERS_TOGETHER and number > first:
            yield questions[first:number]
            first, characters = number, len(question.context)
    if questions:
        yield questions[first:]


def choose_devices(count: int) -> list[str]:
    """The devices for ``--devices N``: N GPUs or, without a GPU, the CPU N times (one process each).

    Raises:
        InputError: there are GPUs, but fewer than ``count``; or that is more than a machine has.
    """
    if count > MOST_PROCESSES:
        raise InputError(f"--devices is {count}; it must be at most {MOST_PROCESSES}, those of one machine")
    if not torch.cuda.is_available():
        return ["cpu"] * count
    found = torch.cuda.device_count()
    if count > found:
        verb = "is" if found == 1 else "are"
        raise InputError(f"--devices {count}: there {verb} {counted(found, 'GPU')} here; pass {found} or less")
    return [f"cuda:{number}" for number in range(count)]


@contextmanager
def answering(
    asked: PredictSettings, devices: Sequence[str]
) -> Iterator[Callable[[Chunks[Key]], Iterator[tuple[Key, bytes]]]]:
    """Yield a function that answers chunks of questions, in order; all processes end with the ``with`` statement.

    Args:
        asked: how questions are answered.
        devices: one device computes in this process; several get a process each, and share the threads of a CPU.

    Raises:
        InputError: see `PredictSettings.load` and `PredictSettings.answer`; or a process died.
    """
    if len(devices) == 1:
        reader = asked.load(devices[0])
        yield lambda chunks: ((key, asked.answer(reader, questions)) for key, questions in chunks)
        return
    threads = threads_each(len(devices))
    what = "--devices: the process that answers on {}"
    given = [(what.format(device), _serve, asked, device, threads, current_voice()) for device in devices]
    with working([partial(Worker, *each) for each in given]) as answer:
        yield answer


def threads_each(processes: int) -> int:
    """The threads of each of several processes that share a CPU."""
    return max(1, torch.get_num_threads() // processes)


def _serve(connection: Connection, asked: PredictSettings, device: str, threads: int, voice: Voice) -> None:
    """The main function of a worker process: answer questions until the connection closes."""
    os.environ["RAYON_NUM_THREADS"] = str(threads)  # the tokenizer's
    torch.set_num_threads(threads)
    asked = replace(asked, shares_memory=True)
    with speaking(voice):
        do_jobs(connection, lambda: partial(asked.answer, asked.load(device)))
