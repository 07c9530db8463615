"""What fits into memory: the search, what it leaves as it was, and how much memory a system says is free."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from qa_lightning.errors import InputError
from qa_lightning.models.loading import load_model
from qa_lightning.runs import memory
from qa_lightning.runs.memory import Pass, checkpoints_gradients, free_memory, largest
from tests.helpers.training import checkpoint_gradients

GIB = 2**30
SIZES = [1, 2, 4, 8, 16, 32]


@pytest.mark.parametrize("limit", range(14))
def test_the_largest_size_that_fits_is_found_and_the_largest_of_all_is_tried_first(limit: int) -> None:
    asked: list[int] = []
    sizes = [1, 2, 3, 4, 6, 12]
    assert largest(sizes, lambda size: asked.append(size) or size <= limit) == max(
        [0, *(n for n in sizes if n <= limit)]
    )
    assert asked[0] == 12
    assert len(asked) <= 4


class Layers(nn.Module):
    """Dropout, and buffers that a forward pass changes."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(64, 64), nn.Dropout(0.5), nn.Linear(64, 1))
        self.norm = nn.BatchNorm1d(64)
        self.sizes: list[int] = []
        self.limit = 10**9

    def losses(self, windows: int) -> Tensor:
        self.sizes.append(windows)
        drawn = torch.randn(windows, 64)
        self.norm(torch.randn(2, 64))
        found: Tensor = self.inner(drawn)[:, 0]
        if windows > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return found

    def trial(self, processes: int = 1) -> Pass:
        return Pass(self, self.losses, torch.device("cpu"), processes)


def test_a_trial_changes_neither_weights_nor_buffers_nor_gradients_nor_random_numbers() -> None:
    torch.manual_seed(1)
    layers = Layers()
    layers.limit = 8
    for weight in layers.parameters():
        weight.grad = torch.ones_like(weight)
    before = {name: value.clone() for name, value in layers.state_dict().items()}
    drawn = torch.random.get_rng_state()
    assert layers.trial().most_windows(SIZES, lambda size: size) == 8
    assert 32 in layers.sizes
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert all(torch.equal(value, before[name]) for name, value in layers.state_dict().items())
    assert all(torch.equal(weight.grad, torch.ones_like(weight)) for weight in layers.parameters())


@pytest.mark.parametrize("others", [[4, 32], [32, 4]])
def test_all_processes_take_what_fits_in_each(others: list[int]) -> None:
    """What another one computes before its trial counts, and what it finds in it."""
    told = iter(others)
    assert Layers().trial().most_windows(SIZES, lambda size: min(size, next(told))) == 4


def test_an_error_that_is_not_about_memory_is_not_taken_for_one() -> None:
    def broken(windows: int) -> Tensor:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        Pass(nn.Linear(1, 1), broken, torch.device("cpu")).most_windows([1, 2], lambda size: size)


def test_on_a_cpu_nothing_is_tried_that_free_memory_is_not_enough_for(monkeypatch) -> None:
    """What a window keeps for the backward pass is counted, and grows with the windows alone."""
    layers = Layers()
    one, two, nine = (memory._saved_bytes(layers.losses, windows) for windows in (1, 2, 9))
    assert nine == one + 8 * (two - one)
    assert two - one >= 3 * 64 * 4  # the input of the first layer, of the second, and what dropout left
    copies = 4 * sum(weight.nbytes for weight in layers.parameters())
    for windows, processes in ((6, 1), (6, 2), (0, 1)):
        layers.sizes.clear()
        free = processes * (copies + memory._HEAP_GROWTH * (two - one) * windows)
        monkeypatch.setattr(memory, "free_memory", lambda free=free: free)
        assert layers.trial(processes).most_windows(SIZES, lambda size: size) == (4 if windows else 0)
        assert max(layers.sizes) == (4 if windows else 2)


def test_what_is_saved_under_checkpointing_is_not_counted_and_models_that_do_so_are_known(model_folder) -> None:
    layers, model = Layers(), load_model(model_folder)

    def checkpointed(windows: int) -> Tensor:
        return checkpoint(layers.inner, torch.randn(windows, 64), use_reentrant=False)[:, 0]

    one, two = (memory._saved_bytes(checkpointed, windows) for windows in (1, 2))
    assert two - one == 64 * 4  # the input alone
    assert not checkpoints_gradients(model)
    checkpoint_gradients(model)
    assert checkpoints_gradients(nn.ModuleList([model]))


def test_a_system_that_does_not_say_what_is_free_is_an_error_with_a_fix(monkeypatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda: None)
    with pytest.raises(InputError, match="how much memory is free; run pip install psutil, or pass a number"):
        Layers().trial().most_windows([1, 2], lambda size: size)


def system(root: Path, groups: str = "", **files: str) -> Path:
    """A folder with ``/proc`` and ``/sys`` of a machine with 16 GiB of free memory; ``__`` stands for a slash."""
    inside = {"proc__meminfo": "MemTotal: 33554432 kB\nMemAvailable: 16777216 kB\n", "proc__self__cgroup": groups}
    for name, text in {**inside, **files}.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def group(path: str, limit: object, used: int, cached: int, version: int = 2) -> dict[str, str]:
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    stat = f"anon 1\n{'total_' * (version == 1)}inactive_file {cached}\n"
    folder = f"sys__fs__cgroup__{path}"
    return {f"{folder}{names[0]}": f"{limit}\n", f"{folder}{names[1]}": f"{used}\n", f"{folder}memory.stat": stat}


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("", {}, 16 * GIB),
        ("0::/\n", group("", "max", 5 * GIB, 0), 16 * GIB),
        ("0::/\n", group("", 8 * GIB, 5 * GIB, GIB), 4 * GIB),  # a container
        (
            "0::/job/step\n",  # SLURM: the job's limit counts as well as the step's
            group("job__", 6 * GIB, 5 * GIB, 0) | group("job__step__", 8 * GIB, GIB, 0),
            GIB,
        ),
        (
            "5:cpu,cpuacct:/x\n4:memory:/docker/abc\n0::/\n",  # version 1, whose path is not seen from within
            group("memory__", 4 * GIB, 3 * GIB, GIB // 2, version=1),
            3 * GIB // 2,
        ),
        ("0::/\n", group("", 2 * GIB, 3 * GIB, 0), 0),
    ],
)
def test_free_memory_is_that_of_the_machine_and_of_every_control_group(tmp_path, groups, files, expected) -> None:
    assert free_memory(system(tmp_path, groups, **files)) == expected


def test_this_machine_says_how_much_memory_is_free() -> None:
    free = free_memory()
    assert free is not None
    assert free > 0
