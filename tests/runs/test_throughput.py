from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertForQuestionAnswering, DistilBertConfig, DistilBertForQuestionAnswering

from qa_lightning.models.computing.loss import span_loss
from qa_lightning.runs import throughput
from qa_lightning.runs.throughput import StepCounter, Throughput, computing_weights, peak_flops, training_flops
from tests.helpers.models import small_config
from tests.helpers.paths import ROOT


def mask_of(*lengths: int) -> torch.Tensor:
    return (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()


def test_counts_are_of_real_tokens_and_start_anew_when_taken() -> None:
    counter = StepCounter()
    counter.add(mask_of(3, 5))
    counter.add(mask_of(7, 7, 1))
    cpu = torch.device("cpu")
    assert counter.take(cpu).tolist() == [5, 23, 10 + 21, 9 + 25 + 49 + 49 + 1]
    assert counter.take(cpu).tolist() == [0, 0, 0, 0]


def test_figures_are_rates_of_real_work() -> None:
    stretch = Throughput(features=10, tokens=900, padded_tokens=1000, seconds=2, flops=4e12, peak_flops=8e12)
    assert stretch.metrics == pytest.approx(
        {
            "train/features_per_second": 5,
            "train/tokens_per_second": 450,
            "train/padding_share": 0.1,
            "train/utilization": 0.25,
        }
    )
    assert str(stretch) == "5 windows/s  450 tokens/s  10.0% padding  25% of peak"
    other = Throughput(features=30, tokens=300, padded_tokens=300, seconds=6)
    both = Throughput.total([stretch, other])
    assert (both.features, both.tokens, both.padded_tokens, both.seconds) == (40, 1200, 1300, 8)
    assert "train/utilization" not in both.metrics  # the peak is not known
    assert str(both) == "5 windows/s  150 tokens/s  7.7% padding"


@pytest.mark.parametrize("family", ["bert", "distilbert"])
@pytest.mark.parametrize("length", [16, 128])
def test_operations_agree_with_torchs_own_count(family: str, length: int) -> None:
    """Forward and backward of sequences of equal length; eager attention, so that its matrix products are counted."""
    if family == "bert":
        config = small_config(500, hidden_size=64, intermediate_size=256, attn_implementation="eager")
        model = BertForQuestionAnswering(config)
    else:
        model = DistilBertForQuestionAnswering(
            DistilBertConfig(vocab_size=500, dim=64, n_layers=2, n_heads=2, hidden_dim=256, attn_implementation="eager")
        )
    ids = torch.randint(0, 500, (4, length))
    batch = {"attention_mask": torch.ones_like(ids), "start_positions": ids[:, 0] * 0, "end_positions": ids[:, 0] * 0}
    with FlopCounterMode(display=False) as counted:
        output = model(input_ids=ids, attention_mask=batch["attention_mask"])
        span_loss(output.start_logits, output.end_logits, batch).mean().backward()
    assert training_flops(model.config, computing_weights(model), ids.numel(), 4 * length**2) == pytest.approx(
        counted.get_total_flops(), rel=0.03
    )


def test_the_peak_is_looked_up_for_the_precision_that_computes(monkeypatch) -> None:
    assert peak_flops(torch.device("cpu"), "32-true") is None
    asked = []

    def known(device, dtype):
        asked.append(dtype)
        return 10**15 if dtype is not torch.float32 else None

    monkeypatch.setattr(throughput, "get_available_flops", known)
    gpu = torch.device("cuda", 0)
    precisions = ("bf16-mixed", "bf16-true", "16-mixed", "32-true")
    assert [peak_flops(gpu, name) for name in precisions] == [1e15, 1e15, 1e15, None]
    assert asked == [torch.bfloat16, torch.bfloat16, torch.float16, torch.float32]


def test_freed_memory_is_kept_unless_the_environment_says_otherwise(monkeypatch) -> None:
    from qa_lightning.training.steps.heap import keep_freed_memory

    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    assert not keep_freed_memory()
    monkeypatch.delenv("MALLOC_ARENA_MAX")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_an_allocator_that_was_loaded_is_named_and_left_alone(tmp_path) -> None:
    """Any library will do: it is known by its name."""
    import _ctypes

    path = shutil.copy(_ctypes.__file__, tmp_path / "libtcmalloc_minimal.so.4")
    code = (
        "import ctypes, sys\n"
        "from qa_lightning.training.steps.heap import allocator, keep_freed_memory\n"
        "print(allocator(), keep_freed_memory())\n"
        "ctypes.CDLL(sys.argv[1])\n"
        "print(allocator(), keep_freed_memory())"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines() == ["None True", "tcmalloc False"]
