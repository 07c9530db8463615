"""The space of a search: what is read from YAML, and what is refused, all of it at once."""

from __future__ import annotations

import pytest

from qa_lightning.cli.train import config_folder
from qa_lightning.errors import InputError
from qa_lightning.sweep.space import Choices, Range, flag_words, read_space, space_misfits
from qa_lightning.training.flags import ParsedFlags


def read(tmp_path, flags, text: str):
    path = tmp_path / "space.yaml"
    path.write_text(text, encoding="utf-8")
    return read_space(path, flags)


def problems_of(tmp_path, flags, text: str) -> list[str]:
    with pytest.raises(InputError) as refused:
        read(tmp_path, flags, text)
    where = f"--space {tmp_path / 'space.yaml'}"
    assert all(problem.startswith(where) for problem in refused.value.problems)
    return [problem.removeprefix(where).removeprefix(", ") for problem in refused.value.problems]


def test_ranges_and_lists_have_the_types_of_their_flags(tmp_path, flags) -> None:
    found = read(
        tmp_path,
        flags,
        "model.learning_rate: {low: 1e-5, high: 3.0e-4, log: true}\n"  # YAML reads 1e-5 as a text
        "model.weight_decay: {low: 0, high: 1}\n"
        "data.batch_size: {low: 8, high: 32, step: 8}\n"
        "model.lora_rank: [null, 8]\n"
        "ema_decay: [0.99, 9.99e-1]\n",
    )
    assert found == {
        "model.learning_rate": Range(1e-5, 3e-4, None, True),
        "model.weight_decay": Range(0.0, 1.0),
        "data.batch_size": Range(8, 32, 8),
        "model.lora_rank": Choices((None, 8)),
        "ema_decay": Choices((0.99, 0.999)),
    }
    ends = [
        type(getattr(found[name], end)) for name in ("model.weight_decay", "data.batch_size") for end in ("low", "high")
    ]
    assert ends == [float, float, int, int]


def test_values_become_the_flags_of_train() -> None:
    values = {"model.learning_rate": 3e-05, "model.lora_rank": None, "model.compile": False, "data.batch_size": 8}
    assert flag_words(values) == [
        "--model.learning_rate=3e-05",
        "--model.lora_rank=null",
        "--model.compile=false",
        "--data.batch_size=8",
    ]


def test_all_problems_are_shown_together_with_their_lines(tmp_path, flags) -> None:
    found = problems_of(
        tmp_path,
        flags,
        "model.learning_rat: [1, 2]\n"
        "data: {batch_size: [8, 16]}\n"
        "model.layer_decay: [0.7, 1.5]\n"
        "data.batch_size: {low: 8, high: 32, step: 8.5}\n"
        "trainer.max_epochs: {low: 5, high: 2}\n"
        "model.weight_decay: 0.1\n"
        "model.warmup_ratio: {low: 0.0, high: 0.5, log: true}\n"
        "trainer.precision: {low: 16, high: 32, stpe: 2}\n"
        "seed_everything: [1, 2]\n"
        "data.validation: [a.json, b.json]\n",
    )
    expected = [
        "line 1: there is no flag --model.learning_rat; did you mean model.learning_rate?",
        "line 2: there is no flag --data; did you mean data.batch_size: ...?",
        "line 3: --model.layer_decay is 1.5; it must be above 0 and at most 1",
        "line 4: --data.batch_size: step is 8.5; it must be a whole number above 0",
        "line 5: --trainer.max_epochs: low is 5, high is 2; low must be below high",
        "line 6: --model.weight_decay: 0.1 is one value; give a list, [0.1, ...], or a range",
        "line 7: --model.warmup_ratio: low is 0.0; with log: true it must be above 0",
        "line 8: --trainer.precision: a range has no stpe; did you mean step?",
        "line 9: --seed_everything cannot be searched: one seed is that of the search",
        "line 10: --data.validation cannot be searched: scores of other questions do not compare",
    ]
    assert len(found) == len(expected)
    for problem, beginning in zip(found, expected, strict=True):
        assert problem.startswith(beginning)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", " names no flag"),
        ("[1, 2]", ": it must name flags and their values"),
        ("a: [", " cannot be read (while parsing"),
        ("data.batch_size: [8]", "line 1: --data.batch_size: a list needs at least 2 values"),
        ("data.batch_size: [8, 8]", "line 1: --data.batch_size: 8 is there twice"),
        ("data.batch_size: [8, eight]", "line 1: --data.batch_size is 'eight'; it must be a whole number or auto"),
        ("data.batch_size: [true, 8]", "line 1: --data.batch_size is 'true'; it must be a whole number or auto"),
        (
            "model.lora_rank: [8, 99999999999999999999]",
            "line 1: --model.lora_rank is 99999999999999999999; it must be at",
        ),
        (
            "trainer.callbacks+: [a, b]",
            "line 1: there is no flag --trainer.callbacks+; did you mean trainer.callbacks?",
        ),
        (
            "trainer.callbacks: [LearningRateMonitor, RichProgressBar]",
            "line 1: --trainer.callbacks: a search gives it no values, as it takes objects",
        ),
        ("data.batch_size: [8, [16]]", "line 1: --data.batch_size: [16] is no number, text"),
        ("data.batch_size: [8, 16]\ndata.batch_size: [4, 8]", "line 2: --data.batch_size is there twice"),
        ("data.batch_size: {low: 8}", "line 1: --data.batch_size: a range needs high"),
        ("data.batch_size: {low: 8, high: 16, step: 9}", "line 1: --data.batch_size: step is 9, more than"),
        ("data.batch_size: {low: 8, high: 14, step: 4}", "line 1: --data.batch_size: steps of 4 from low 8 do not end"),
        ("data.batch_size: {low: 8, high: 16, step: 2, log: true}", "line 1: --data.batch_size: step and log: true"),
        (
            "data.batch_size: {low: 8, high: 16, log: 1}",
            "line 1: --data.batch_size: log is 1; it must be true or false",
        ),
        ("data.batch_size: {low: auto, high: 16}", "line 1: --data.batch_size: low is 'auto'; a range is of numbers"),
        ("model.learning_rate: {low: 1.0e-5, high: .inf}", "line 1: --model.learning_rate"),
    ],
)
def test_each_mistake_is_one_line(tmp_path, flags, text, problem) -> None:
    (found,) = problems_of(tmp_path, flags, text)
    assert found.startswith(problem)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("model.mixed_script", "scores by other rules do not compare"),
        ("data.answer_separator", "it decides which gold answers are read"),
        ("data.encoding", "it decides which gold answers are read"),
        ("data.columns.answer_text", "it decides which gold answers are read"),
    ],
)
def test_what_decides_the_scores_of_the_same_predictions_is_not_searched(tmp_path, flags, name, why) -> None:
    (found,) = problems_of(tmp_path, flags, f"{name}: [kana, mlqa]")
    assert found.startswith(f"line 1: --{name} cannot be searched: {why}")


def test_adapters_are_searched_with_what_belongs_to_them(tmp_path, flags) -> None:
    found = read(tmp_path, flags, "model.lora_rank: [4, 8]\nmodel.lora_alpha: [16, 32]\nmodel.lora_dropout: [0.0, 0.1]")
    assert [one.values for one in found.values()] == [(4, 8), (16, 32), (0.0, 0.1)]


def test_one_batch_and_all_of_them_are_two_values(tmp_path, flags) -> None:
    if not isinstance(flags.with_value("trainer.limit_train_batches", "1")[0], int):
        pytest.skip("in this process, Python has Trainer's flags as float before int, so that 1 is read as 1.0")
    (found,) = read(tmp_path, flags, "trainer.limit_train_batches: [1, 1.0]").values()
    assert list(map(repr, found.values)) == ["1", "1.0"]
    (found,) = problems_of(tmp_path, flags, "trainer.limit_train_batches: [1.0, 1, 1.0]")
    assert found == "line 1: --trainer.limit_train_batches: 1.0 is there twice"


@pytest.mark.parametrize("limit", ["2", "0.5"])
def test_batches_of_other_windows_hold_other_questions(tmp_path, flags, limit) -> None:
    text = "data.eval_batch_size: [2, 16]\ndata.max_length: [48, 64]\ndata.batch_size: [4, 8]\n"

    def limited_to(number: str) -> ParsedFlags:
        return ParsedFlags(["--data.dataset", "synthetic", "--trainer.limit_val_batches", number])

    read(tmp_path, flags, text)
    read(tmp_path, limited_to("1.0"), text)
    limited = limited_to(limit)
    for found, name in zip(problems_of(tmp_path, limited, text), ("eval_batch_size", "max_length"), strict=True):
        assert f": --data.{name} cannot be searched beside --trainer.limit_val_batches" in found


def test_a_number_of_windows_is_not_searched_where_batches_are_filled_by_tokens(tmp_path) -> None:
    flags = ParsedFlags(["--data.dataset", "synthetic", "--data.tokens_per_batch", "8192"])
    (found,) = problems_of(tmp_path, flags, "data.batch_size: [4, 8]\nmodel.warmup_ratio: [0.1, 0.2]\n")
    assert "line 1: --data.batch_size has no effect beside --data.tokens_per_batch" in found
    flags = ParsedFlags(["--data.dataset", "synthetic"])
    (found,) = problems_of(tmp_path, flags, "data.batch_size: [4, 8]\ndata.tokens_per_batch: [4096, 8192]\n")
    assert "line 1: --data.batch_size has no effect beside --data.tokens_per_batch" in found


def test_values_that_do_not_go_with_the_flags_are_a_line_each(tmp_path, flags) -> None:
    text = (
        "model.cuda_graphs: [false, true]\ntrainer.strategy: [auto, fsdp]\nmodel.layer_decay: {low: 0.7, high: 1.0}\n"
    )
    path = tmp_path / "space.yaml"
    graphs, fsdp = space_misfits(path, read(tmp_path, flags, text), flags)
    assert graphs.startswith(f"--space {path}: --model.cuda_graphs true: --model.cuda_graphs true: it needs a CUDA GPU")
    assert fsdp.startswith(f"--space {path}: --trainer.strategy fsdp: ")
    assert flags.misfits() == []


def test_a_file_that_is_not_there_is_one_line(tmp_path, flags) -> None:
    with pytest.raises(InputError, match=r"space.yaml cannot be read \(No such file or directory\)"):
        read_space(tmp_path / "space.yaml", flags)


def test_the_default_space_can_be_read(flags) -> None:
    space = read_space(config_folder() / "spaces" / "default.yaml", flags)
    assert set(space) == {"model.learning_rate", "model.layer_decay", "model.warmup_ratio", "data.batch_size"}
