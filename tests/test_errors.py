"""One message, two readers: who runs a command reads flags, who calls from Python reads arguments."""

from __future__ import annotations

from typing import get_args

import pytest

from qa_lightning import QALightningModule, SquadDataModule
from qa_lightning.errors import InputError, argument_kinds, naming_flags, one_line, worded
from qa_lightning.inference.asking import AskSettings
from qa_lightning.inference.bulk.workers import choose_devices
from qa_lightning.inference.settings import checked_batch_size, checked_settings
from qa_lightning.models.settings import AnswerSettings
from tests.helpers import commands

NAMES_LIKE_FLAGS = [
    *("/root/hub/datasets--deepset--germanquad/dev.jsonl", "faq--data.json", "data/--data.json", r"C:\--data.json"),
    *("a---data.json", "(1)--data.json", "faq.--model.max_length 256.json", "~--data.csv"),
]


@pytest.mark.parametrize(
    ("written", "argument"),
    [
        ("pass --data.max_length 256 or less", "pass max_length=256 or less"),
        ("--model.learning_rate is 0; it must be above 0", "learning_rate is 0; it must be above 0"),
        ("or pass --data.on_bad_rows skip to leave such rows out", 'or pass on_bad_rows="skip" to leave such rows out'),
        ("say which with --data.columns.question NAME", 'say which with columns={"question": "NAME"}'),
        ("--model.compile true: does not work here", "compile=True: does not work here"),
        ("--trainer.max_epochs 4 or more", "max_epochs=4 or more"),
        ("neither --data.dataset nor --data.validation", "neither dataset nor validation"),
        ("--output answers.jsonl: is there already", "output answers.jsonl: is there already"),
        ("a - b -- c --- d", "a - b -- c --- d"),
        *((f"{name}: no such file", f"{name}: no such file") for name in NAMES_LIKE_FLAGS),
        ("--data.validation hub/datasets--a--b/dev.json", "validation hub/datasets--a--b/dev.json"),
        ("(--data.dataset x, '--data.validation y', `--model.compile`)", "(dataset x, 'validation y', `compile`)"),
    ],
)
def test_flags_are_arguments_where_no_command_runs(written: str, argument: str) -> None:
    assert worded(written) == argument
    assert str(InputError(written)) == argument
    with naming_flags():
        assert worded(written) == written
        assert str(InputError(written)) == written
    assert worded(written) == argument


def test_a_python_caller_is_told_about_arguments_and_all_of_them(model_folder) -> None:
    with pytest.raises(InputError) as raised:
        SquadDataModule("gone.json", model_name=model_folder, batch_size=0, validation_fraction=1.5, train_answers="no")
    text = str(raised.value)
    assert "--" not in text
    for name in ("batch_size is 0", "validation_fraction is 1.5", "train_answers is 'no'", "dataset gone.json"):
        assert name in text
    with pytest.raises(InputError) as raised:
        QALightningModule(model_folder, learning_rate=0, n_best=0)
    assert raised.value.problems == [
        "learning_rate is 0; it must be above 0, 2e-5 to 1e-4 are usual",
        "n_best is 0; it must be at least 1",
    ]


def test_a_command_is_told_about_flags_of_model_and_data_at_once(model_folder) -> None:
    flags = ["--model.model_name", model_folder, "--data.dataset", "gone.json"]
    with pytest.raises(InputError) as raised:
        commands.train([*flags, "--data.batch_size", "0", "--model.warmup_ratio", "2", "--model.layer_decay", "0"])
    names = [problem.split()[0] for problem in raised.value.problems]
    assert names == ["--data.batch_size", "--data.dataset", "--model.warmup_ratio", "--model.layer_decay"]


def test_a_number_that_fits_nowhere_is_refused_for_every_flag_that_takes_whole_ones(model_folder) -> None:
    huge, most = 10**20, "it must be at most 4294967295"
    expected, words = set(), ["--data.dataset", "synthetic", "--model.model_name", model_folder]
    for group, cls in (("data", SquadDataModule), ("model", QALightningModule)):
        for name, kind in argument_kinds(cls.__init__).items():
            if "workers" not in name and (kind is int or int in get_args(kind)):
                expected.add(f"--{group}.{name}")
    expected |= {f"--trainer.{name}" for name in ("max_epochs", "max_steps", "accumulate_grad_batches", "num_nodes")}
    expected = expected - {"--data.seed"} | {"--average_best"}  # the seed is that of --seed_everything
    assert {"--data.batch_size", "--data.max_length", "--model.n_best", "--model.max_answer_length"} < expected
    with pytest.raises(InputError) as raised:
        commands.train([*words, *(f"{flag}={huge}" for flag in expected)])
    assert expected == {problem.split()[0] for problem in raised.value.problems if most in problem}


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (
            lambda: SquadDataModule("synthetic", batch_size=10**5000),
            "batch_size is a int too large to show; it must be",
        ),
        (
            lambda: SquadDataModule("synthetic", num_workers=2000, prepare_workers=0),
            "num_workers is 2000; .* 1024\n.*to 1024",
        ),
        (lambda: SquadDataModule("synthetic", num_workers=10**5000), "num_workers is a int too large to show; it must"),
        (
            lambda: SquadDataModule("synthetic", max_length=str(10**4000)),
            r"max_length is '1000+\.\.\., a text; it must",
        ),
        (lambda: SquadDataModule("synthetic", seed=-1), "seed is -1; it must not be negative"),
        (lambda: choose_devices(2000), "devices is 2000; it must be at most 1024"),
        (lambda: checked_batch_size(2**32), "batch_size is 4294967296; pass at most 4294967295"),
        (lambda: checked_settings({"top_k": 2**32}), "top_k is 4294967296; pass at most 4294967295"),
        (lambda: AskSettings(top_k=2**32).check(), "top_k is 4294967296; pass at most 4294967295"),
        (lambda: AnswerSettings.of_config({"max_length": 2**32}, "f", None), "max_length is 4294967296; it must be"),
        (lambda: commands.crossval(["--folds", str(2**32)]), "--folds is 4294967296; it must be at most 4294967295"),
        (lambda: commands.crossval(["--parallel", "1025"]), "--parallel is 1025; it must be at most 1024"),
    ],
)
def test_others_refuse_it_too(call, problem) -> None:
    with pytest.raises(InputError, match=problem):
        call()


@pytest.mark.parametrize(("seed", "problem"), [(-1, "must not be negative"), (2**32, "must be at most 4294967295")])
@pytest.mark.parametrize("command", [commands.train, commands.crossval])
def test_a_seed_that_numpy_cannot_take_is_told_with_all_else(command, seed, problem, model_folder, tmp_path) -> None:
    words = ["--data.dataset", "synthetic", "--model.model_name", model_folder, "--data.batch_size", "0"]
    words += ["--study", str(tmp_path / "study")] if command is commands.crossval else []
    with pytest.raises(InputError) as raised:
        command([*words, "--seed_everything", str(seed)])
    problems = [one for one in raised.value.problems if not one.startswith("--data.batch_size is 0; it must be")]
    assert problems == [f"--seed_everything is {seed}; it {problem}"]
    assert len(raised.value.problems) == 2


def test_a_command_without_groups_names_its_own_flags(tmp_path) -> None:
    with naming_flags(groups=False, names={"data.validation": "data"}):
        assert worded("--data.validation x.json: no such file") == "--data x.json: no such file"
        assert worded("pass --data.max_length 256") == "pass --max_length 256"
        assert worded("or --model.max_answer_length") == "or --max_answer_length"
        assert worded("say --data.columns.question NAME") == "say --columns.question NAME"
        assert [worded(name) for name in NAMES_LIKE_FLAGS] == NAMES_LIKE_FLAGS
    with pytest.raises(InputError) as raised:
        commands.evaluate(["--model", "tiny", "--data", str(tmp_path / "gone.json")])
    assert "--data." not in str(raised.value)
    (tmp_path / "q.csv").write_text("question,context,answer\nWho?,Anna.,Anna\n")
    flags = ["--model", "tiny", "--max_length", "60", "--doc_stride", "50", "--max_question_length", "20"]
    with pytest.raises(InputError, match=r"--doc_stride 50 must be smaller .*--max_length 60"):
        commands.check_data([str(tmp_path / "q.csv"), *flags])


@pytest.mark.parametrize(
    ("error", "options", "line"),
    [
        (OSError("first line\n  second   line"), {}, "first line second line"),
        (OSError("\nfirst  line\nsecond line"), {"first": True}, "first line"),
        ("x" * 300, {}, "x" * 200),
        ("x" * 300, {"limit": 250}, "x" * 250),
        (TimeoutError(), {}, "TimeoutError"),
        (TimeoutError("\n"), {"first": True}, "TimeoutError"),
    ],
)
def test_an_exception_is_told_on_one_line(error, options, line) -> None:
    assert one_line(error, **options) == line
