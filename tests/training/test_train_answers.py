"""--data.train_answers: training on the first gold answer of each question, or on all gold answers."""

from __future__ import annotations

import re

import pytest
import torch
from lightning.pytorch import Trainer

from qa_lightning import QALightningModule, SquadDataModule
from qa_lightning.errors import InputError
from tests.helpers import commands
from tests.helpers.data import make_rows, write_json
from tests.helpers.kill_and_resume import differences
from tests.helpers.training import QUIET, SMALL, Crash, Gradients, crash, train_flags
from tests.helpers.windows import GOLD

FILES = ("windows", "input_ids", "token_type_ids", "token_offset", "context_offset")


def several_rows(count: int, **made: int) -> list[dict]:
    """Rows with one to four distinct answers; some rows give one twice, some have one far from the first."""
    rows = make_rows(count, **made)
    for number, row in enumerate(rows):
        if row["answers"]["text"]:
            (city,) = row["answers"]["text"]
            more = [city, *(f"in {city}", f"lives in {city}", city)[: number % 4]]
            more += ["baker"] if number % 2 and "baker" in row["context"] else []
            row["answers"] = {"text": more, "answer_start": [row["context"].index(text) for text in more]}
    return rows


def first_alone(rows: list[dict]) -> list[dict]:
    return [row | {"answers": {name: values[:1] for name, values in row["answers"].items()}} for row in rows]


def prepared(train: str, model: str, cache, **more) -> SquadDataModule:
    data = SquadDataModule(train, train, model, **SMALL, **{"cache_dir": str(cache), **more})
    data.prepare_data()
    data.setup("fit")
    return data


def files_of(data: SquadDataModule, names: tuple[str, ...] = FILES) -> dict[str, bytes]:
    folder = data.prepared("train").features_folder
    return {name: (folder / f"{name}.bin").read_bytes() for name in names}


def same_batches(one: SquadDataModule, other: SquadDataModule) -> bool:
    pairs = zip(one.train_dataloader(), other.train_dataloader(), strict=True)
    return all(a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a) for a, b in pairs)


def test_first_prepares_what_the_first_answers_alone_give_and_all_something_else(tmp_path, model_folder, said) -> None:
    rows = several_rows(24, unanswerable=4, long=6)
    path, stripped = (write_json(tmp_path / f"{n}.json", r) for n, r in enumerate((rows, first_alone(rows))))
    first, alone = prepared(path, model_folder, tmp_path / "a"), prepared(stripped, model_folder, tmp_path / "b")
    assert "several distinct" not in said.text
    folder = first.prepared("train").features_folder
    assert {file.name for file in folder.iterdir()} == {
        "char_start.bin",
        "char_end.bin",
        "summary.json",
        "manifest.txt",
    } | {f"{name}.bin" for name in FILES}
    assert files_of(first) == files_of(alone)
    assert same_batches(first, alone)
    said.clear()
    every = prepared(path, model_folder, tmp_path / "a", train_answers="all")
    one, other = (data.prepared("train") for data in (first, every))
    assert one.examples_folder == other.examples_folder
    assert one.features_folder != other.features_folder
    assert first.prepared("validation").features_folder == every.prepared("validation").features_folder
    assert not same_batches(first, every)
    counted = sum(len(set(row["answers"]["text"])) > 1 for row in rows)
    assert f"train: {counted} questions have several distinct answers, all of which they are trained on" in said.text
    assert "validation: " in said.text
    assert said.text.count("several distinct answers") == 1
    assert not any(set(batch) & set(GOLD) for batch in every.val_dataloader())


def test_all_is_said_to_be_without_effect_where_every_question_has_one_answer(tmp_path, model_folder, said) -> None:
    rows = make_rows(12, unanswerable=2, long=2)
    for row in rows:
        row["answers"] = {name: values * 3 for name, values in row["answers"].items()}  # given three times
    path = write_json(tmp_path / "data.json", rows)
    every = prepared(path, model_folder, tmp_path, train_answers="all")
    assert "--data.train_answers all is without effect: no question has several distinct answers" in said.text
    first = prepared(path, model_folder, tmp_path)
    assert files_of(every) == files_of(first)
    assert same_batches(every, first)


@pytest.mark.parametrize("on_bad_rows", ["repair", "skip"])
def test_answers_that_were_moved_and_rows_that_were_left_out(tmp_path, model_folder, on_bad_rows: str) -> None:
    rows = several_rows(8)
    city = rows[3]["answers"]["text"][0]
    right = list(rows[3]["answers"]["answer_start"])
    assert rows[3]["answers"]["text"][1] == f"in {city}"
    rows[3]["answers"]["answer_start"][1] += 3
    moved = write_json(tmp_path / "moved.json", rows)
    found = prepared(moved, model_folder, tmp_path / "a", train_answers="all", on_bad_rows=on_bad_rows)
    rows[3]["answers"]["answer_start"] = right
    if on_bad_rows == "skip":  # the other answers of its question are good
        del rows[3]["answers"]["text"][1], rows[3]["answers"]["answer_start"][1]
    expected = prepared(write_json(tmp_path / "right.json", rows), model_folder, tmp_path / "b", train_answers="all")
    names = (*FILES, "gold_window", *GOLD)
    assert files_of(found, names) == files_of(expected, names)
    assert files_of(found, ("gold_window",))["gold_window"]


def test_a_value_that_is_none_is_refused_with_other_bad_flags(model_folder) -> None:
    with pytest.raises(InputError) as caught:
        SquadDataModule("synthetic", model_name=model_folder, train_answers="both", batch_size=0)  # type: ignore
    assert "--data.train_answers is 'both'; it must be first or all" in str(caught.value)
    assert "--data.batch_size is 0" in str(caught.value)


@pytest.mark.parametrize(("words", "value"), [([], "first"), (["--data.train_answers", "all"], "all")])
def test_the_flag_comes_through_the_command_line(capsys, words: list[str], value: str) -> None:
    assert commands.printed_config(words, capsys)["data"]["train_answers"] == value


def gradients(data: SquadDataModule, model: str, batch_size: int, accumulated: int) -> torch.Tensor:
    """[steps, weights] gradients of an epoch without dropout, in which the weights hardly move."""
    data.batch_size = batch_size
    module = QALightningModule(model, learning_rate=1e-12)
    for layer in module.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
    seen = Gradients()
    trainer = Trainer(max_epochs=1, accumulate_grad_batches=accumulated, limit_val_batches=0, callbacks=seen, **QUIET)
    trainer.fit(module, data)
    return torch.stack(seen.seen)


def test_accumulated_batches_train_on_all_answers_as_one_large_batch(tmp_path, model_folder) -> None:
    """Some small batches have only windows with one answer, their large batch also others; the last step is smaller."""
    path = write_json(tmp_path / "data.json", several_rows(16, long=1, unanswerable=2))
    data = prepared(path, model_folder, tmp_path, train_answers="all")
    assert len(data.train_set) % 8
    large = gradients(data, model_folder, 8, 1)
    for batch_size, accumulated in ((4, 2), (1, 8)):
        small = gradients(data, model_folder, batch_size, accumulated)
        torch.testing.assert_close(small, large, rtol=1e-4, atol=1e-6)


def test_a_run_learns_and_one_that_was_cut_off_ends_as_it(tmp_path, model_folder, monkeypatch, capsys) -> None:
    train = write_json(tmp_path / "train.json", several_rows(48, unanswerable=4, long=2))
    validation = write_json(tmp_path / "validation.json", make_rows(8))
    common = ["--data.train_answers", "all", "--trainer.accumulate_grad_batches", "2", "--data.batch_size", "4"]
    given = {
        name: [*train_flags(tmp_path / name, model_folder, train, validation), *common, "--save_every_minutes", "0"]
        for name in ("whole", "cut")
    }
    assert commands.train(given["whole"]) == 0
    output = capsys.readouterr().out
    losses = [float(loss) for loss in re.findall(r"train loss ([\d.]+)", output)]
    assert len(losses) == 3
    assert losses[2] < 0.9 * losses[0], losses
    assert re.search(r"train: \d+ questions have several distinct answers, all of which", output)
    crash(monkeypatch, Crash("batch", 1, 4), given["cut"])  # within an accumulated step
    config = tmp_path / "cut" / "lightning_logs" / "version_0" / "config.yaml"
    flags = config.read_text(encoding="utf-8")
    others = [*given["cut"], "--data.train_answers", "first", "--ckpt_path", "last"]
    with pytest.raises(InputError, match=r"--data.train_answers was all, is first.*resume with the flags"):
        commands.train(others)
    assert config.read_text(encoding="utf-8") == flags  # refused flags are not those of the run
    assert commands.train([*given["cut"], "--ckpt_path", "last"]) == 0
    runs = [tmp_path / name / "lightning_logs" / "version_0" for name in ("whole", "cut")]
    assert differences(*runs) == []
