from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from datasets import Dataset, DatasetDict
from lightning.pytorch.trainer.states import TrainerFn

from qa_lightning import SquadDataModule
from qa_lightning.checks.report import check_prepared
from qa_lightning.errors import InputError, Voice, speaking
from qa_lightning.features.batching import EvaluationSampler
from tests.helpers.data import make_rows, mixed_rows, write_json
from tests.helpers.families import add_state

SMALL = {"max_length": 48, "doc_stride": 12, "max_question_length": 12, "batch_size": 4, "eval_batch_size": 4}


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("QA_LIGHTNING_CACHE", str(tmp_path / "cache"))


def prepared(*args, **kwargs) -> SquadDataModule:
    data = SquadDataModule(*args, **{**SMALL, **kwargs})
    data.prepare_data()
    data.setup("fit")
    return data


def test_a_second_start_reuses_what_was_prepared_and_says_so(tmp_path, model_folder, said) -> None:
    path = write_json(tmp_path / "train.json", make_rows(20))
    prepared(path, path, model_folder)
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").rglob("*") if file.is_file()}
    assert "prepared in" in said.text
    assert "reused" not in said.text
    said.clear()
    prepared(path, path, model_folder)
    assert "prepared before, reused" in said.text
    assert files == {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    "change",
    [{"max_length": 40}, {"doc_stride": 10}, {"max_question_length": 10}, {"max_train_examples": 5}, "content"],
)
def test_other_settings_or_content_are_prepared_anew(tmp_path, model_folder, said, change) -> None:
    rows = make_rows(20)
    path = write_json(tmp_path / "train.json", rows)
    prepared(path, path, model_folder)
    said.clear()
    if change == "content":
        rows[3]["question"] += " now"
        write_json(tmp_path / "train.json", rows)
        change = {}
    prepared(path, path, model_folder, **change)
    assert "prepared in" in said.text


def test_rows_that_were_left_out_are_an_error_again_where_they_must_not_be(tmp_path, model_folder) -> None:
    rows = make_rows(10)
    rows[2]["context"] = " "
    path = write_json(tmp_path / "train.json", rows)
    assert len(prepared(path, path, model_folder, on_bad_rows="skip").train_set.examples) == 9
    with pytest.raises(InputError, match="row 3"):
        prepared(path, path, model_folder)


def test_the_same_tokenizer_padding_on_the_other_side_is_prepared_anew(tmp_path, model_folder, said) -> None:
    config = shutil.copytree(model_folder, tmp_path / "left") / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"padding_side": "left"}))
    path = write_json(tmp_path / "train.json", make_rows(10))
    right = prepared(path, path, model_folder)
    said.clear()
    other = prepared(path, path, str(tmp_path / "left"))
    assert right.tokenizer.backend_tokenizer.to_str() == other.tokenizer.backend_tokenizer.to_str()
    assert "prepared in" in said.text
    for split in ("train_set", "validation_set"):
        own, others = (getattr(data, split).store.windows for data in (right, other))
        assert (own["context_begin"] > others["context_begin"]).all()  # the context comes first now


def test_a_tokenizer_that_comes_with_truncation_prepares_once_and_goes_on_within_an_epoch(
    tmp_path, model_folder, said
) -> None:
    """What it is called with in between, by the checks and by whoever else, is no other data."""
    add_state(shutil.copytree(model_folder, tmp_path / "with state"))
    path = write_json(tmp_path / "train.json", make_rows(20))
    data = prepared(path, path, str(tmp_path / "with state"))
    data.trainer = trainer_after(3)
    within, fingerprint = data.state_dict(), data.describe()
    check_prepared(data.splits(), max_answer_length=10)
    data.tokenizer(["Who ?"], truncation=True, max_length=8, padding="max_length")
    said.clear()
    data.prepare_data()
    assert not said.messages  # nothing was made or described again
    assert data.describe() == fingerprint
    data.load_state_dict(within)
    other = prepared(path, path, model_folder)
    assert {folder.name for folder in (tmp_path / "cache" / "features").iterdir() if folder.is_dir()} == {
        one.features_folder.name for one in other.splits()
    }


def test_data_that_was_moved_since_it_was_prepared_is_told_by_where_it_is(tmp_path, model_folder, said) -> None:
    path = write_json(tmp_path / "train.json", make_rows(20))
    prepared(path, path, model_folder)
    moved = str(Path(path).rename(tmp_path / "moved.json"))
    said.clear()
    described = prepared(moved, moved, model_folder).describe()
    assert "reused" in said.text
    assert path not in said.text
    assert described["train"]["source"] == described["validation"]["source"] == moved


@pytest.mark.parametrize("on_bad_rows", ["skip", "repair"])
@pytest.mark.parametrize("kind", ["one file", "two files", "a folder of datasets"])
def test_rows_of_data_that_was_moved_are_told_by_where_they_are(
    tmp_path, model_folder, said, on_bad_rows, kind
) -> None:
    rows = make_rows(20)
    rows[0]["answers"]["answer_start"] = [len(rows[0]["context"]) + 1] if on_bad_rows == "skip" else [1]
    data = tmp_path / "data"
    data.mkdir()
    source = f"{data}/bad.json"
    if kind == "a folder of datasets":
        Dataset.from_list(rows).save_to_disk(source)
    else:
        write_json(data / "bad.json", rows)
    if kind == "two files":
        write_json(data / "more.json", [row | {"id": f"more {row['id']}"} for row in make_rows(3)])
        source += f",{data}/more.json"
    prepared(source, source, model_folder, on_bad_rows=on_bad_rows)
    assert f"{'left out 1 bad row' if on_bad_rows == 'skip' else 'repaired 1 answer'} (all are listed in " in said.text
    assert f", the first: {data}/bad.json " in said.text
    data.rename(tmp_path / "moved")
    said.clear()
    source = source.replace(str(data), str(tmp_path / "moved"))
    prepared(source, source, model_folder, on_bad_rows=on_bad_rows)
    assert "reused" in said.text
    assert f", the first: {tmp_path / 'moved'}/bad.json " in said.text
    assert f"{data}/" not in said.text


def test_lines_about_columns_tell_of_data_that_was_moved_where_it_is(tmp_path, model_folder, said) -> None:
    rows, data = make_rows(20), tmp_path / "data"
    data.mkdir()
    for number, (name, encoding) in enumerate([("question", "utf-16"), ("query", "utf-8")]):
        lines = [{**row, "id": f"{number} {row['id']}", name: row["question"]} for row in rows]
        lines = [
            {key: value for key, value in line.items() if key in ("id", "context", "answers", name)} for line in lines
        ]
        text = "".join(f"{json.dumps(line)}\n" for line in lines)
        (data / f"{number}.jsonl").write_text(text, encoding=encoding)

    def told(folder: Path) -> list[str]:
        said.clear()
        source = f"{folder}/0.jsonl,{folder}/1.jsonl"
        prepared(source, source, model_folder)
        return [line for line in said.messages if "byte-order" in line or "columns as in" in line]

    before = told(data)
    assert len(before) == 4  # of each split two
    data.rename(tmp_path / "moved")
    assert told(tmp_path / "moved") == [line.replace(str(data), str(tmp_path / "moved")) for line in before]


def test_every_place_in_a_line_is_where_the_rows_are_now(tmp_path, model_folder, said) -> None:
    rows = make_rows(20)
    rows[3] = dict(rows[2])  # one line with two places
    path = write_json(tmp_path / "bad.json", rows)
    prepared(path, path, model_folder, on_bad_rows="skip")
    assert f"{path} row 4: id 'q2' is also the id of {path} row 3;" in said.text
    moved = str(Path(path).rename(tmp_path / "moved.json"))
    said.clear()
    prepared(moved, moved, model_folder, on_bad_rows="skip")
    assert f"{moved} row 4: id 'q2' is also the id of {moved} row 3;" in said.text
    said.clear()
    SquadDataModule(None, rows, model_folder, on_bad_rows="skip", cache_dir=str(tmp_path / "cache")).prepare_data()
    assert "validation[3]: id 'q2' is also the id of validation[2];" in said.text
    said.clear()
    frame, good = pd.DataFrame(rows), make_rows(2)
    SquadDataModule(frame, good, model_folder, on_bad_rows="skip", cache_dir=str(tmp_path / "cache")).prepare_data()
    assert "dataset.iloc[3]: id 'q2' is also the id of dataset.iloc[2];" in said.text
    assert "train: reading" not in said.text  # its rows were prepared before, from the list


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_a_preparation_that_is_cut_off_is_told_and_leaves_nothing_that_looks_ready(
    tmp_path, model_folder, monkeypatch, error
) -> None:
    path = write_json(tmp_path / "train.json", make_rows(20))

    def dies(*args):
        raise error

    monkeypatch.setattr("qa_lightning.features.cache.write_features", dies)
    with pytest.raises(InputError if isinstance(error, OSError) else type(error)) as caught:
        SquadDataModule(path, path, model_folder, **SMALL).prepare_data()
    if isinstance(error, OSError):
        assert "cannot be made (No space left on device); free some space there" in str(caught.value)
    assert not [left for left in (tmp_path / "cache" / "features").iterdir() if left.is_dir()]
    monkeypatch.undo()
    monkeypatch.setenv("QA_LIGHTNING_CACHE", str(tmp_path / "cache"))
    assert len(prepared(path, path, model_folder).train_set) == 20


def test_without_validation_data_a_file_is_split_by_context(tmp_path, model_folder, said) -> None:
    rows = make_rows(200)
    for row in rows[::2]:  # two questions on one context
        rows.append({**row, "id": row["id"] + "-again"})
    path = write_json(tmp_path / "all.json", rows)
    data = prepared(path, None, model_folder, validation_fraction=0.2, seed=3)
    train, validation = (set(part.examples["context"]) for part in (data.train_set, data.validation_set))
    assert not train & validation
    assert len(data.train_set.examples) + len(data.validation_set.examples) == len(rows)
    assert 0.1 < len(validation) / 200 < 0.3
    assert "20% of the contexts validate (seed 3)" in said.text
    again = prepared(path, None, model_folder, validation_fraction=0.2, seed=4)
    assert set(again.validation_set.examples["context"]) != validation


def test_what_is_true_of_a_file_that_is_split_is_said_once(tmp_path, model_folder, said) -> None:
    rows = [{"q": row["question"], **{k: v for k, v in row.items() if k != "question"}} for row in make_rows(60)]
    rows.append({**rows[0], "id": "bad", "q": ""})
    path = write_json(tmp_path / "all.json", rows)
    both = {"on_bad_rows": "skip", "validation_fraction": 0.2}
    prepared(path, None, model_folder, **both)
    for once in ("no validation data given", "question from 'q'", "left out 1 bad row"):
        assert said.text.count(once) == 1
    said.clear()
    prepared(path, path, model_folder, **both)
    for twice in ("question from 'q'", "left out 1 bad row"):
        assert said.text.count(twice) == 2


def test_batches_are_rounded_up_to_4_tokens_but_not_beyond_the_longest_window(tmp_path, model_folder) -> None:
    path = write_json(tmp_path / "train.json", make_rows(20, long=5))
    rounded, exact = (
        prepared(path, path, model_folder, max_length=45, batch_size=2, eval_batch_size=2, **more)
        for more in ({}, {"pad_to_multiple_of": 1})
    )
    for name in ("train_dataloader", "val_dataloader"):
        widths = [[batch["input_ids"].shape[1] for batch in getattr(data, name)()] for data in (rounded, exact)]
        assert widths[0] == [min(-(-width // 4) * 4, 45) for width in widths[1]]
        assert {width % 4 for width in widths[1]} - {0, 45 % 4}
        assert 45 in widths[1]


def test_cuts_take_whole_examples(tmp_path, model_folder) -> None:
    path = write_json(tmp_path / "train.json", make_rows(20, long=5))
    data = prepared(path, path, model_folder, max_train_examples=3, max_validation_examples=2)
    assert data.train_set.examples["id"][:] == ["q0", "q1", "q2"]
    assert len(data.train_set) > 3
    assert set(data.validation_set.store.windows["example"].tolist()) == {0, 1}


@pytest.mark.parametrize(
    ("windows", "limit", "batches"),
    [(16, 0.5, 2), (13, 0.5, 2), (13, 0.7, 2), (17, 0.4, 2), (13, 3, 3), (13, 1.0, 4), (13, None, 4), (4, 0.5, 1)],
)
@pytest.mark.parametrize("processes", [1, 2])
def test_a_part_of_the_validation_is_counted_over_all_batches_the_last_one_too(
    tmp_path, model_folder, windows, limit, batches, processes
) -> None:
    """Validates on the windows of as many batches: the same ones on any number of processes."""
    path = write_json(tmp_path / "validation.json", make_rows(windows))
    data = prepared(path, path, model_folder)
    taken: list[int] = []
    for rank in range(processes):
        data.trainer = SimpleNamespace(limit_val_batches=limit, world_size=processes, global_rank=rank)
        taken += data.val_dataloader().sampler
    assert len(data.validation_set) == windows
    of = data.validation_set.store.windows
    assert set(taken) == set(EvaluationSampler(of["length"], 4, 1, 0, batches, of["example"]))
    assert len(set(taken)) == min(4 * batches, windows)


def trainer_after(batches: int, **changes) -> SimpleNamespace:
    """A stub of a trainer that has done ``batches`` batches of its first epoch, as far as a datamodule reads it."""
    progress = SimpleNamespace(current=SimpleNamespace(ready=1, processed=0))
    loop = SimpleNamespace(batch_progress=SimpleNamespace(current=SimpleNamespace(processed=batches)))
    stub = {"fit_loop": SimpleNamespace(epoch_progress=progress, epoch_loop=loop), "train_dataloader": None}
    stub |= {"state": SimpleNamespace(fn=TrainerFn.FITTING), "world_size": 1, "accumulate_grad_batches": 1}
    stub["limit_train_batches"] = 1.0
    return SimpleNamespace(**stub | changes)


@pytest.mark.parametrize(
    ("flags", "trainer", "words"),
    [
        ({"seed": 43}, {}, "seed was 42, is 43"),
        ({"batch_size": 2}, {}, "--data.batch_size was 4, is 2"),
        ({"tokens_per_batch": 48}, {}, "--data.tokens_per_batch was None, is 48"),
        ({"batching": "random"}, {}, "--data.batching was length, is random"),
        ({"train_answers": "all"}, {}, "--data.train_answers was first, is all"),
        ({"keep_no_answer": 0.5}, {}, "--data.keep_no_answer was 1.0, is 0.5"),
        ({"max_train_examples": 19}, {}, "training data was "),
        ({}, {"world_size": 2}, "processes was 1, is 2"),
        ({}, {"accumulate_grad_batches": 2}, "--trainer.accumulate_grad_batches was 1, is 2"),
    ],
)
def test_all_that_changes_the_batches_is_refused_within_an_epoch_and_taken_between_two(
    tmp_path, model_folder, flags, trainer, words
) -> None:
    path = write_json(tmp_path / "train.json", make_rows(20))
    same = SquadDataModule(path, path, model_folder, **SMALL)
    same.trainer = trainer_after(0)
    between = same.state_dict()
    same.trainer = trainer_after(3)
    within = same.state_dict()
    same.load_state_dict(within)
    within["order"].pop("--data.keep_no_answer")  # as in older checkpoints
    same.load_state_dict(within)
    other = SquadDataModule(path, path, model_folder, **SMALL | flags)
    other.trainer = trainer_after(0, **trainer)
    with pytest.raises(InputError, match=f"was written after batch 3 of epoch 1, .*{words}"):
        other.load_state_dict(within)
    other.load_state_dict(between)


def test_unanswerable_questions_are_found_out_from_the_data(tmp_path, model_folder, said) -> None:
    path = write_json(tmp_path / "train.json", make_rows(20, unanswerable=6))
    assert prepared(path, path, model_folder).validation_set.version_2
    assert "6 of them without an answer" in said.text
    path = write_json(tmp_path / "v1.json", make_rows(20))
    assert not prepared(path, path, model_folder).validation_set.version_2


def test_bad_rows_stop_or_are_left_out_and_said(tmp_path, model_folder, said) -> None:
    rows = make_rows(10)
    rows[2]["answers"]["answer_start"] = [0]
    rows[5]["context"] = " "
    path = write_json(tmp_path / "train.json", rows)
    with pytest.raises(InputError) as caught:
        prepared(path, path, model_folder)
    assert all(word in str(caught.value) for word in ("row 3", "row 6", "--data.on_bad_rows skip"))
    data = prepared(path, path, model_folder, on_bad_rows="skip")
    assert len(data.train_set.examples) == 8
    assert "left out 2 bad rows" in said.text


@pytest.mark.parametrize("validation", ["the same", None])
def test_an_error_names_the_source_once(tmp_path, model_folder, validation) -> None:
    path = write_json(tmp_path / "train.json", make_rows(10))
    (tmp_path / "train.json").write_bytes(b"[")
    with pytest.raises(InputError) as caught:
        prepared(path, validation and path, model_folder)
    assert str(caught.value).startswith(f"{path}: not valid JSON")
    assert str(caught.value).count(path) == 1
    write_json(tmp_path / "train.json", [])
    with pytest.raises(InputError) as caught:
        prepared(path, validation and path, model_folder)
    assert str(caught.value) == f"{path}: the data has no questions"


@pytest.mark.parametrize("contexts", [1, 3])
def test_a_file_that_is_too_small_to_split_says_what_is_needed(tmp_path, model_folder, contexts) -> None:
    rows = [make_rows(6)[number % contexts] | {"id": f"q{number}"} for number in range(6)]
    path = write_json(tmp_path / "small.json", rows)
    with pytest.raises(InputError) as caught:
        prepared(path, None, model_folder, validation_fraction=0.01)
    found = f"6 rows with {contexts} context{'s' if contexts > 1 else ''}, all of which went to training"
    assert str(caught.value).startswith(f"{path} is too small to be split into training and validation: it has {found}")
    assert "at least 2 contexts, and 299 to be safe" in str(caught.value)
    assert "--data.validation FILE" in str(caught.value)
    assert "choose another --data.validation_fraction, or train on all rows with" in str(caught.value)
    with pytest.raises(InputError, match="all of which went to validation"):
        prepared(path, None, model_folder, validation_fraction=0.99)


def test_cut_questions_and_lost_answers_are_said(tmp_path, model_folder, said) -> None:
    rows = make_rows(4)
    rows[0]["question"] = "Where " * 40
    context = "paris " * 60
    rows[1] |= {"context": context, "answers": {"text": [context.strip()], "answer_start": [0]}}
    path = write_json(tmp_path / "train.json", rows)
    prepared(path, path, model_folder)
    assert "train: 1 question was longer than --data.max_question_length and cut" in said.text
    assert "train: 1 answer stands whole in no window" in said.text


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"dataset": "nothing.json"}, ["--data.dataset nothing.json: no such file"]),
        (
            {"dataset": "nothing.json", "validation": "other.csv", "batch_size": 0},
            ["--data.dataset nothing.json", "--data.batch_size is 0", "--data.validation other.csv"],
        ),
        ({"dataset": "synthetic", "validation_fraction": 1.5}, ["--data.validation_fraction is 1.5"]),
        ({"dataset": None}, ["names any data"]),
        (
            {"dataset": "synthetic", "tokens_per_batch": 300, "batching": "random"},
            ["--data.tokens_per_batch 300 has no room", "pass 384 or more", "leave --data.batching random out"],
        ),
        ({"dataset": "synthetic", "doc_stride": 500}, ["--data.doc_stride 500", "room for context"]),
    ],
)
def test_bad_flags_are_named_together(model_folder, flags, words) -> None:
    with pytest.raises(InputError) as caught:
        SquadDataModule(model_name=model_folder, **flags)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "nobody/no-such-model",
            ["'nobody/no-such-model'", "not a folder here and not in the Hub's", "quickstart"],
        ),
        ("EMPTY", ["needs config.json, model.safetensors and tokenizer.json"]),
    ],
)
def test_a_model_that_is_not_to_be_had_is_one_clear_error(tmp_path, name, words) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError) as caught:
        SquadDataModule("synthetic", model_name=str(tmp_path / "empty") if name == "EMPTY" else name)
    assert all(word in str(caught.value) for word in words)


def objects_of(rows: list[dict]) -> dict[str, Any]:
    frame = pd.DataFrame(rows)
    return {
        "list": rows,
        "DataFrame": frame,
        "Dataset": Dataset.from_list(rows),
        "other names": frame.rename(columns={"question": "q", "context": "passage"}),
    }


@pytest.mark.parametrize("kind", ["list", "DataFrame", "Dataset", "other names"])
def test_rows_of_an_object_become_what_they_become_from_a_file(tmp_path, model_folder, said, kind) -> None:
    rows = mixed_rows(20, unanswerable=4, long=2)
    path = write_json(tmp_path / "rows.json", rows)
    of_file = prepared(path, None, model_folder, validation_fraction=0.3)
    said.clear()
    of_object = prepared(objects_of(rows)[kind], None, model_folder, validation_fraction=0.3)
    for split in ("train_set", "validation_set"):
        one, other = getattr(of_file, split), getattr(of_object, split)
        assert one.examples[:] == other.examples[:]
        assert (one.store.windows == other.store.windows).all()
        assert one.version_2 == other.version_2
    assert ("question from 'q', context from 'passage'" in said.text) == (kind == "other names")
    assert f"train: dataset ({kind if kind != 'other names' else 'DataFrame'}): " in said.text
    assert of_object.describe()["train"]["kind"] == "object"


def test_both_splits_come_from_a_dictionary_of_datasets_and_validation_from_another_object(model_folder) -> None:
    rows = make_rows(12)
    splits = DatasetDict({"train": Dataset.from_list(rows[:8]), "validation": Dataset.from_list(rows[8:])})
    data = prepared(splits, None, model_folder)
    assert data.train_set.examples["id"][:] == [row["id"] for row in rows[:8]]
    assert data.validation_set.examples["id"][:] == [row["id"] for row in rows[8:]]
    data = prepared(rows[:8], pd.DataFrame(rows[10:]), model_folder)
    assert data.validation_set.examples["id"][:] == ["q10", "q11"]


def test_equal_content_in_whatever_object_is_prepared_once_and_changed_content_anew(model_folder, said) -> None:
    rows = make_rows(8)
    data = prepared(rows, rows[:2], model_folder)
    said.clear()
    prepared(pd.DataFrame(rows), Dataset.from_list(rows[:2]), model_folder)
    assert said.text.count("prepared before, reused") == 2
    said.clear()
    rows[0]["question"] = "Who lives in Rome ?"
    data.prepare_data()  # as the next fit does
    data.setup("fit")
    assert data.train_set.examples["question"][0] == data.validation_set.examples["question"][0] == rows[0]["question"]


def test_bad_rows_of_an_object_are_named_as_their_owner_finds_them(model_folder) -> None:
    rows = make_rows(6)
    rows[2]["answers"] = {"text": ["Paris"], "answer_start": [0]}
    rows[4]["context"] = " "
    with pytest.raises(InputError) as caught:
        prepared(pd.DataFrame(rows), rows, model_folder)
    first, *others = caught.value.problems
    assert first.startswith("dataset (DataFrame): 2 problems in the data")
    assert [line.partition(":")[0] for line in others] == ["dataset.iloc[2] (id q2)", "dataset.iloc[4]"]
    with pytest.raises(InputError, match=r"^dataset\[0\]: no column 'context'"):
        prepared([{"question": "Who ?", "answers": None}], None, model_folder)
    with pytest.raises(InputError, match=r"^validation \(list\): .*\nvalidation\[2\]"):
        prepared(make_rows(6), rows, model_folder)
    assert len(prepared(rows, rows, model_folder, on_bad_rows="skip").train_set) == 4


def test_a_path_and_a_list_of_paths(tmp_path, model_folder) -> None:
    rows = make_rows(6)
    paths = [Path(write_json(tmp_path / f"{number}.json", rows[number : number + 2])) for number in (0, 2, 4)]
    data = prepared(paths, paths[0], model_folder)
    assert data.train_set.examples["id"][:] == [row["id"] for row in rows]
    assert data.hparams["validation"] == str(paths[0])


@pytest.fixture
def _as_python() -> Iterator[None]:
    with speaking(Voice()):
        yield


@pytest.mark.usefixtures("_as_python")
def test_arguments_of_other_types_are_one_error_that_names_them(model_folder) -> None:
    with pytest.raises(InputError) as caught:
        SquadDataModule(
            dataset=pd.Series(["a"]),
            validation=5,
            model_name=model_folder,
            max_length="128",
            doc_stride=12.0,
            batch_size="16",
            eval_batch_size=None,
            batching="lengths",
            validation_fraction="0.2",
            max_train_examples=True,
            on_bad_rows="skp",
            train_answers="most",
            columns={"questions": "q", "context": 3},
            cache_dir=7,
        )
    sources = [line for line in caught.value.problems if line.startswith(("dataset", "validation is of"))]
    assert [line for line in caught.value.problems if line not in sources] == [
        "batch_size is '16', a text; it must be a whole number or auto: write it without quotes",
        "eval_batch_size is None; it must be a whole number",
        "max_train_examples is True, of type bool; it must be a whole number",
        "validation_fraction is '0.2', a text; it must be a number: write it without quotes",
        "max_length is '128', a text; it must be a whole number: write it without quotes",
        "doc_stride is 12.0, of type float; it must be a whole number",
        "batching is 'lengths'; it must be length or random; did you mean length?",
        "on_bad_rows is 'skp'; it must be one of error, skip, repair or repair_or_skip; did you mean skip?",
        "train_answers is 'most'; it must be first or all",
        "cache_dir is 7, of type int; it must be a text",
        "columns has 'questions', which is no name of a column here; did you mean question?",
        "columns.context is 3; it must be a text, the name of a column",
    ]
    assert [line.partition(" (")[0] for line in sources] == ["dataset is of type Series", "validation is of type int"]


@pytest.mark.usefixtures("_as_python")
@pytest.mark.parametrize("columns", ["question", None, ["question"]])
def test_columns_that_are_no_names_are_refused(model_folder, columns) -> None:
    with pytest.raises(InputError, match=r'columns is .*; pass the names as a dict, such as columns=\{"question": '):
        SquadDataModule("synthetic", model_name=model_folder, columns=columns)


@pytest.mark.usefixtures("_as_python")
def test_messages_about_columns_say_what_to_pass(model_folder) -> None:
    with pytest.raises(InputError, match=r'Say which it is with columns=\{"question": "NAME"\}'):
        prepared([{"asked": "Who ?", "context": "Anna .", "answers": None}], None, model_folder)


@pytest.mark.usefixtures("_as_python")
@pytest.mark.parametrize(
    ("loader", "words"),
    [
        ("train_dataloader", 'call setup("fit") first, which a Trainer does by itself'),
        ("val_dataloader", 'call setup("validate") first'),
        ("test_dataloader", 'call setup("test") first'),
        ("predict_dataloader", 'call setup("predict") first'),
    ],
)
def test_a_loader_before_its_setup_says_so(model_folder, loader, words) -> None:
    data = SquadDataModule("synthetic", model_name=model_folder, **SMALL)
    with pytest.raises(InputError) as caught:
        getattr(data, loader)()
    assert str(caught.value).startswith(f"{loader}() needs the prepared data: {words}")


@pytest.mark.usefixtures("_as_python")
def test_without_data_to_train_on_the_training_loader_says_so(model_folder) -> None:
    data = SquadDataModule(None, make_rows(4), model_folder, **SMALL)
    with pytest.raises(InputError, match="there is nothing to train on: dataset is not given"):
        data.train_dataloader()
