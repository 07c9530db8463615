"""The heap of a training on a CPU: kept for the next step, given back where a process grows beyond what steps need."""

from __future__ import annotations

import ctypes
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from qa_lightning.runs.throughput import resident_bytes
from qa_lightning.training.steps import heap
from qa_lightning.training.steps.heap import LimitedHeap
from tests.helpers.processes import finished

COUNTS = sys.platform.startswith("linux") and hasattr(ctypes.CDLL(None), "mallinfo2")

# Two steps. Between the blocks of the first one lie others that stay, too large for gaps that imports have left, so
# that no free block has room for one of the second step. Prints the size of the process after them, and what the steps
# needed, in MB.
STEPS = """
import sys
import torch
from qa_lightning.runs.throughput import resident_bytes
from qa_lightning.training.steps.heap import LimitedHeap, keep_freed_memory

assert keep_freed_memory()
limit = LimitedHeap(float(sys.argv[1]), small=int(sys.argv[2]))
limit.on_train_start(None, None)
kept = []
for step, size in enumerate((3_000_000, 4_000_000)):
    blocks = []
    for _ in range(120):
        blocks.append(torch.ones(size, dtype=torch.uint8))
        kept.append(torch.ones(100_000, dtype=torch.uint8))
    limit.on_before_backward(None, None, None)
    del blocks
    limit.on_train_batch_end(None, None, None, None, step)
print(resident_bytes() // 2**20, limit.needed // 2**20, limit.times)
"""


@pytest.mark.skipif(not COUNTS, reason="needs glibc 2.33 or newer")
def test_a_process_stays_near_what_its_steps_need(tmp_path) -> None:
    steps = tmp_path / "steps.py"
    steps.write_text(STEPS)

    def run(most: float, small: int = 0) -> list[int]:
        done = finished([steps, str(most), str(small)])
        assert done.returncode == 0, done.stderr
        return [int(figure) for figure in done.stdout.split()]

    grown, needed, times = run(1000)
    assert times == 0
    assert grown > 1.25 * needed, "these steps no longer break the heap into pieces: the test shows nothing"
    limited, needed, times = run(1.2)
    assert times == 1
    assert limited <= 1.2 * needed
    assert run(1.2, small=8 << 30)[2] == 0


def test_nothing_is_done_where_the_system_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda name: SimpleNamespace())
    limit, none = LimitedHeap(0.0, 0), SimpleNamespace()
    arguments: list[Any] = [none, none]
    limit.on_train_start(*arguments)
    limit.on_before_backward(*arguments, none)
    limit.on_train_batch_end(*arguments, none, none, 0)
    assert (limit.needed, limit.times) == (0, 0)
    assert resident_bytes() > 0
