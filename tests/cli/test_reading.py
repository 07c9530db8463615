"""How data is read is said by the same flags to every command, and decides what is prepared."""

from __future__ import annotations

import json

import pytest
from lightning.pytorch.cli import LightningArgumentParser

from qa_lightning import SquadDataModule
from qa_lightning.errors import InputError
from tests.helpers import commands
from tests.helpers.forms import write

TABLE = "id,question,context,answer\n1,Où ?,À Genève – ou à Coire ?,Genève # Coire\n2,Qui ?,Zoé dort.,Zoé\n"
FLAGS = ["--encoding", "cp1252", "--answer_separator", "#"]


@pytest.fixture
def table(tmp_path):
    return str(write(tmp_path, "fragen.csv", TABLE.encode("cp1252")))


def as_in_train(flags):
    return [f"--data.{word[2:]}" if word.startswith("--") else word for word in flags]


@pytest.mark.parametrize("flags", [FLAGS, as_in_train(FLAGS)])
def test_check_data_and_evaluate_take_them_under_both_names(tmp_path, table, capsys, flags):
    assert commands.check_data([table, *flags]) == 0
    assert "3 answers" in capsys.readouterr().out
    predictions = tmp_path / "predictions.json"
    predictions.write_text(json.dumps({"1": "Coire", "2": "Zoé"}), encoding="utf-8")
    assert commands.evaluate(["--predictions", str(predictions), "--data", table, *flags]) == 0
    assert "exact_match    100.0000" in capsys.readouterr().out


def test_without_them_each_command_says_which_to_pass(tmp_path, table, capsys):
    predictions = tmp_path / "predictions.json"
    predictions.write_text("{}")
    for run in (
        lambda *flags: commands.check_data([table, *flags]),
        lambda *flags: commands.evaluate(["--predictions", str(predictions), "--data", table, *flags]),
        lambda *flags: commands.predict(["--model", "tiny", "--input", table, "--output", str(tmp_path / "a"), *flags]),
    ):
        with pytest.raises(InputError, match=r"line 2: not UTF-8 .*pass --encoding cp1252"):
            run()
    commands.check_data([table, "--encoding", "cp1252"])
    assert "pass --data.answer_separator '#'" in " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_predict_takes_them(tmp_path, table, model_folder):
    output = tmp_path / "answers.jsonl"
    given = ["--model", model_folder, "--input", table, "--output", str(output)]
    assert commands.predict([*given, *FLAGS]) == 0
    assert [json.loads(line)["id"] for line in output.read_text(encoding="utf-8").splitlines()] == ["1", "2"]
    settings = json.loads((tmp_path / "answers.jsonl.run.json").read_text(encoding="utf-8"))["settings"]
    assert (settings["encoding"], settings["answer_separator"]) == ("cp1252", "#")


@pytest.mark.parametrize("separator", ["|", ";", "#", "~", "//", " / ", "null", "- ", "[", "%s", "&", ": "])
def test_train_takes_any_mark_as_it_is(separator):
    parser = LightningArgumentParser()
    parser.add_lightning_class_args(SquadDataModule, "data")
    read = parser.parse_args([f"--data.answer_separator={separator}", "--data.encoding", "cp1252"]).data
    assert (read.answer_separator, read.encoding) == (separator, "cp1252")


def test_they_decide_what_is_prepared(tmp_path, table, model_folder):
    def prepared(**reading):
        data = SquadDataModule(None, table, model_folder, cache_dir=str(tmp_path / "cache"), **reading)
        split = data.prepared("validation")
        split.prepare()
        return split.features_folder.name, [row["answers"]["text"] for row in split.open()[1]]

    name, texts = prepared(encoding="cp1252", answer_separator="#")
    assert texts == [["Genève", "Coire"], ["Zoé"]]
    other, texts = prepared(encoding="cp1252", answer_separator=" # ")
    assert texts == [["Genève", "Coire"], ["Zoé"]]
    assert name != other
    with pytest.raises(InputError, match="cannot be read as utf-16"):
        prepared(encoding="utf-16", answer_separator="#")
    with pytest.raises(InputError, match="encoding nonsense: there is no encoding of that name"):
        prepared(encoding="nonsense")
