"""Predicts on one or several devices: turns chunks of questions into lines of JSON.

One device computes in this process. Several devices get a process each, with its own copy of the model. A chunk is
answered by one process alone, in batches that do not depend on the process, so any number of processes gives the same
lines. At most two chunks per process are in flight.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import torch

from qa_lightning.decoding.predictions import Answer
from qa_lightning.errors import InputError, Voice, current_voice, one_line, speaking
from qa_lightning.inference.bulk.questions import Question
from qa_lightning.inference.bulk.several import SeveralTexts
from qa_lightning.inference.reader import Reader
from qa_lightning.runs.failures import is_out_of_memory
from qa_lightning.wording import counted

Key = TypeVar("Key")
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
        model: folder or name on the Hub.
        dtype: number type of the computation, by torch's name, such as ``bfloat16``.
        batch_size: windows per forward pass.
        threshold_file: see `reader.Reader.from_pretrained`.
    """

    model: str
    dtype: str
    batch_size: int
    threshold_file: Path | None = None

    @property
    def rows_together(self) -> int:
        """Number of rows in a chunk."""
        return _BATCHES_TOGETHER * self.batch_size

    def load(self, device: str | None) -> Reader:
        """Load the model onto a device; None takes the first GPU, or the CPU if there is none."""
        return Reader.from_pretrained(self.model, device, getattr(torch, self.dtype), self.threshold_file)

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
        fixes += ["fewer --devices"] if device.type == "cpu" else []
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
        InputError: there are GPUs, but fewer than ``count``.
    """
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
    threads = max(1, torch.get_num_threads() // len(devices))
    idle: SimpleQueue[_Worker] = SimpleQueue()
    with ExitStack() as running:
        waiters = ThreadPoolExecutor(len(devices))  # each thread waits for one process
        running.callback(waiters.shutdown, cancel_futures=True)  # runs after the processes have ended
        workers = [running.enter_context(_Worker(asked, device, threads)) for device in devices]
        for worker in workers:
            worker.receive()  # it has loaded its model
            idle.put(worker)
        yield partial(_in_order, lambda questions: waiters.submit(_ask, idle, questions), 2 * len(devices))


def _ask(idle: SimpleQueue[_Worker], questions: Sequence[Question]) -> bytes:
    worker = idle.get()
    try:
        return worker.ask(questions)
    finally:
        idle.put(worker)


def _in_order(
    ask: Callable[[Sequence[Question]], Future[bytes]], max_in_flight: int, chunks: Chunks[Key]
) -> Iterator[tuple[Key, bytes]]:
    in_flight: deque[tuple[Key, Future[bytes]]] = deque()
    for key, questions in chunks:
        in_flight.append((key, ask(questions)))
        if len(in_flight) == max_in_flight:
            first, lines = in_flight.popleft()
            yield first, lines.result()
    for first, lines in in_flight:
        yield first, lines.result()


class _Worker:
    """A process with the model on its device; it is killed when the ``with`` statement ends.

    A pool of `concurrent.futures` would not do: it keeps the writing end of its processes' pipe open. If a process is
    killed while it sends more than the pipe holds (64 KiB on Linux), the pool waits for the rest for ever.
    """

    def __init__(self, asked: PredictSettings, device: str, threads: int) -> None:
        self._device = device
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, asked, device, threads, current_voice()), daemon=True
        )
        self._process.start()
        theirs.close()  # so that the connection closes when the process ends

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        """Kill the process; a thread that waits for its answer gets an error."""
        self._process.kill()
        self._process.join()

    def ask(self, questions: Sequence[Question]) -> bytes:
        """Send questions, and return the lines of their answers."""
        with suppress(OSError):  # the process has died: `receive` raises the error
            self._connection.send(questions)
        return self.receive()

    def receive(self) -> bytes:
        """Wait for the next message of the process.

        Raises:
            InputError: the process sent one, or it has died.
        """
        try:
            reply: bytes | InputError = self._connection.recv()
        except (EOFError, OSError):
            raise InputError(self._cause_of_death()) from None
        if isinstance(reply, InputError):
            raise reply
        return reply

    def _cause_of_death(self) -> str:
        self._process.join(5)
        status = self._process.exitcode or 0
        how = f"with status {status}; its own messages are above"
        if status < 0:
            how = f"of {signal.Signals(-status).name}"
            how += "; the system ends processes so when memory runs out" if status == -signal.SIGKILL else ""
        return f"--devices: the process that answers on {self._device} ended {how}"


def _serve(connection: Connection, asked: PredictSettings, device: str, threads: int, voice: Voice) -> None:
    """The main function of a worker process: answer questions until the connection closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all processes of a terminal; the first one decides
    os.environ["RAYON_NUM_THREADS"] = str(threads)  # the tokenizer's
    torch.set_num_threads(threads)
    with suppress(EOFError, OSError), speaking(voice):
        try:
            reader = asked.load(device)
            connection.send(b"")
            while True:
                connection.send(asked.answer(reader, connection.recv()))
        except InputError as error:
            connection.send(error)
