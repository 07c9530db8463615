"""The commands, end to end, on a tiny model: what a run prints, which files it leaves, and that they work."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

from qa_lightning import QALightningModule, Reader
from qa_lightning.errors import InputError
from qa_lightning.runs.record import append_run
from qa_lightning.runs.resume import Beginning, find_beginning
from qa_lightning.training.flags import default_precision
from tests.helpers import commands
from tests.helpers.data import make_rows, write_json
from tests.helpers.paths import ROOT
from tests.helpers.processes import Started, finished
from tests.helpers.training import AVERAGED, train_flags


@pytest.fixture(scope="module")
def run(tmp_path_factory, model_folder):
    """One training run: its folder, the validation file, its output."""
    import contextlib
    import io

    folder = tmp_path_factory.mktemp("run")
    train = write_json(folder / "train.json", make_rows(60, long=4))
    validation = write_json(folder / "validation.json", make_rows(25, long=3))
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        assert commands.train([*train_flags(folder, model_folder, train, validation), "--validate_first", "true"]) == 0
    return folder, validation, output.getvalue()


def version(run) -> Path:
    return run[0] / "lightning_logs" / "version_0"


def test_a_run_leaves_exactly_these_files(run) -> None:
    files = {str(path.relative_to(version(run))) for path in version(run).rglob("*") if path.is_file()}
    events = {name for name in files if name.startswith("events.out.tfevents")}
    assert events
    assert files - events == {
        "config.yaml",
        "hparams.yaml",
        "run.json",
        "report.html",
        "report.jsonl",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        *(f"confidence/{name}.png" for name in ("reliability", "precision_recall", "risk_coverage")),
        "confidence/confidence.json",
        "model/config.json",
        "model/model.safetensors",
        "model/tokenizer.json",
        "model/tokenizer_config.json",
    }


def test_one_line_an_epoch_and_how_to_go_on_are_printed(run) -> None:
    lines = run[2].splitlines()
    number = r"[\d.,]+"
    scores = rf"EM +{number}  F1 +{number}  val loss {number}"
    assert sum(bool(re.fullmatch(rf"before training +{scores}", line)) for line in lines) == 1
    epochs = [line for line in lines if line.startswith("epoch ")]
    assert len(epochs) == 3
    for epoch, line in enumerate(epochs, 1):
        speed = rf"{number} windows/s  {number} tokens/s  [\d.]+% padding"
        assert re.fullmatch(rf"epoch {epoch}/3 +{scores}  train loss {number}  {speed}  \d+:\d\d", line), line
    assert any("60 questions" in line and "windows" in line for line in lines)
    assert any("1 device x 8 windows x 1 accumulated = 8 windows per step" in line for line in lines)
    (ahead,) = [line for line in lines if line.startswith("ahead: ")]
    assert re.fullmatch(r"ahead: +\d+ windows in 11 batches an epoch, 33 steps of the optimizer in all", ahead)
    assert any(re.fullmatch(r"validates: after every epoch, \d+ windows", line) for line in lines)
    (saved,) = [line for line in lines if line.startswith("saves: ")]
    assert "last.ckpt every 15 minutes" in saved
    assert saved.endswith(f"all in {version(run)}")
    assert any(line.startswith("ask it:") and " predict --model " in line for line in lines)


def curves(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    return events


def test_tensorboard_holds_the_curves_the_samples_and_the_hyperparameters(run) -> None:
    events = curves(version(run))
    for name in ("val/exact_match", "val/f1", "val/loss"):
        points = events.Scalars(name)
        assert len(points) == 4  # before training, and each epoch
        assert points[0].step == 0
        assert sorted({point.step for point in points}) == [point.step for point in points]
    assert len(events.Scalars("train/loss")) >= 3
    rates = [point.value for point in events.Scalars("train/learning_rate")]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == pytest.approx(2e-3 * 32 / 33)  # of the second of 33 steps
    for name in ("train/features_per_second", "train/tokens_per_second", "train/padding_share"):
        points = events.Scalars(name)
        # 11 steps per epoch: logged after every second one and at the end of the epoch; Lightning numbers them from 0
        assert [point.step for point in points] == sorted({*range(1, 33, 2), 10, 21, 32})
        assert all(point.value > 0 or (name == "train/padding_share" and point.value == 0) for point in points)
    assert "train/utilization" not in events.Tags()["scalars"]  # a CPU's peak is not known
    (samples, *_) = [events.Tensors(tag) for tag in events.Tags()["tensors"] if tag.startswith("val/samples")]
    table = samples[-1].tensor_proto.string_val[0].decode()
    assert table.startswith("| question | prediction | context |")
    assert "Where lives Anna ?" in table
    shown = re.findall(r"\(F1 (\d+), score [\d.]+\), gold: ", table)
    exact = [point.value for point in events.Scalars("val/exact_match")][-1]
    errors, same = shown[:-10], shown[-10:]
    assert len(errors) == min(10, round(25 * (1 - exact / 100)) - sum(f1 != "100" for f1 in same))
    assert "100" not in errors  # they come before the ten that are always the same
    # It opens on what people come for: capitals come first, and groups by what stands before the slash.
    scalars = sorted(events.Tags()["scalars"])
    assert [tag.partition("/")[0] for tag in scalars[:5]] == ["Overview"] * 4 + ["train"]
    assert scalars[:2] == ["Overview/EM", "Overview/F1"]
    for shown, tag in (("EM", "val/exact_match"), ("F1", "val/f1"), ("loss_train", "train/loss")):
        pairs = [[(point.step, point.value) for point in events.Scalars(name)] for name in (f"Overview/{shown}", tag)]
        assert pairs[0][: len(pairs[1])] == pairs[1]  # at its end stands the model that was written
    assert {tag.partition("/")[0] for tag in scalars} == {"Overview", "train", "val"}
    hparams = yaml.safe_load((version(run) / "hparams.yaml").read_text())
    assert hparams["learning_rate"] == 2e-3
    assert hparams["max_length"] == 48


def test_config_is_saved_with_the_precision_that_was_chosen(run) -> None:
    config = yaml.safe_load((version(run) / "config.yaml").read_text())
    assert config["trainer"]["precision"] == "32-true"
    assert config["seed_everything"] == 42
    assert config["data"]["max_length"] == 48


def test_run_json_says_what_the_run_was(run) -> None:
    (start,) = json.loads((version(run) / "run.json").read_text())
    assert start["seed"] == 42
    assert start["devices"] == "1 x CPU"
    assert start["precision"] == "32-true"
    assert start["resumed_from"] is None
    assert start["data"]["train"]["questions"] == 60
    assert start["data"]["validation"]["source"] == run[1]
    assert len(start["data"]["validation"]["fingerprint"]) == 20
    assert start["versions"]["torch"] == torch.__version__
    assert {"started", "command", "git"} <= start.keys()


def test_the_exported_model_gives_the_best_checkpoints_logits(run) -> None:
    folder = version(run) / "model"
    exported = AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    module = QALightningModule.load_from_checkpoint(version(run) / "checkpoints" / "best.ckpt", weights_only=True)
    inputs = AutoTokenizer.from_pretrained(folder)("Where lives Anna ?", "Anna lives in Rome .", return_tensors="pt")
    with torch.no_grad():
        ours, theirs = module.model.eval()(**inputs), exported(**inputs)
    torch.testing.assert_close(ours.start_logits, theirs.start_logits, rtol=0, atol=0)
    torch.testing.assert_close(ours.end_logits, theirs.end_logits, rtol=0, atol=0)


def test_predict_answers_with_offsets_into_the_context(run, capsys) -> None:
    context = "Anna lives in Rome . Ben lives in Oslo ."
    arguments = ["--model", str(version(run) / "model"), "--question", "Where lives Ben ?", "--context", context]
    assert commands.predict([*arguments, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert context[answer["start"] : answer["end"]] == answer["answer"] != ""
    assert 0 < answer["score"] <= 1
    assert commands.predict(arguments) == 0
    out = capsys.readouterr().out
    assert f"answer  {answer['answer']}" in out
    assert f"characters {answer['start']}-{answer['end']}" in out


def test_evaluate_scores_the_model_as_training_did_and_writes_the_files(run, tmp_path, capsys) -> None:
    model, data = str(version(run) / "model"), run[1]
    assert commands.evaluate(["--model", model, "--data", data, "--output-dir", str(tmp_path / "scores")]) == 0
    printed = dict(line.split() for line in capsys.readouterr().out.splitlines() if line.startswith(("exact", "f1")))
    metrics = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    best = re.search(r"best checkpoint +EM +([\d.]+)  F1 +([\d.]+)", run[2])
    assert best is not None
    assert [f"{metrics[name]:.2f}" for name in ("exact_match", "f1")] == list(best.groups())
    assert float(printed["exact_match"]) == pytest.approx(metrics["exact_match"], abs=1e-4)
    predictions = json.loads((tmp_path / "scores" / "predictions.json").read_text())
    n_best = json.loads((tmp_path / "scores" / "nbest_predictions.json").read_text())
    rows = {row["id"]: row for row in json.loads(Path(data).read_text())["data"]}
    assert predictions.keys() == n_best.keys() == rows.keys()
    for key, candidates in n_best.items():
        assert candidates[0]["text"] == predictions[key]
        assert all(rows[key]["context"][c["start"] : c["end"]] == c["text"] for c in candidates)
        assert sum(c["probability"] for c in candidates) <= 1 + 1e-9
    # the predictions that it wrote score the same
    files = ["--predictions", str(tmp_path / "scores" / "predictions.json"), "--data", data]
    assert commands.evaluate([*files, "--output-dir", str(tmp_path / "again")]) == 0
    assert json.loads((tmp_path / "again" / "metrics.json").read_text()) == metrics


def test_the_reader_answers_many_questions_as_one_by_one(run) -> None:
    reader = Reader.load(str(version(run) / "model"))
    rows = make_rows(9, long=2)
    questions, contexts = [row["question"] for row in rows], [row["context"] for row in rows]
    together = reader.answer(questions, contexts, batch_size=4)
    alone = [reader.answer([q], [c])[0] for q, c in zip(questions, contexts, strict=True)]
    assert [(a.text, a.start, a.end) for a in together] == [(a.text, a.start, a.end) for a in alone]
    assert [a.score for a in together] == pytest.approx([a.score for a in alone], rel=1e-4)
    with pytest.raises(InputError, match="question 1 is empty"):
        reader.answer(["Who?", " "], ["Ben.", "Ben."])


def test_questions_without_an_answer_that_nothing_validates_are_said(tmp_path, model_folder, capsys) -> None:
    train = write_json(tmp_path / "train.json", make_rows(12, unanswerable=3))
    validation = write_json(tmp_path / "validation.json", make_rows(8))
    note = "note: some training questions have no answer, and none to validate on"
    for source, said in ((train, True), (validation, False)):
        flags = train_flags(tmp_path, model_folder, source, validation)
        assert commands.train([*flags, "--trainer.max_steps", "1"]) == 0
        assert (note in capsys.readouterr().out) is said


def test_version_2_data_trains_and_exports_a_model_that_may_say_no(tmp_path, model_folder, capsys) -> None:
    data = write_json(tmp_path / "v2.json", make_rows(240, unanswerable=80))
    assert commands.train([*train_flags(tmp_path, model_folder, data, data), "--trainer.max_epochs", "1"]) == 0
    model = tmp_path / "lightning_logs" / "version_0" / "model"
    settings = json.loads((model / "config.json").read_text())["qa_lightning"]
    assert settings["version_2"] is True
    figures = json.loads((model.parent / "confidence" / "confidence.json").read_text())
    assert settings["null_score_diff_threshold"] == figures["null_score_diff_threshold"]
    assert settings["temperature"] == figures["temperature"]
    assert settings["temperature"] != 1.0 or settings["calibrator"]
    assert figures["held_out"]
    events = curves(model.parent)
    assert {f"val_confidence/{name}" for name in ("reliability", "risk_coverage")} <= set(events.Tags()["images"])
    assert len(events.Scalars("val/null_score_diff_threshold")) == len(events.Scalars("val/f1"))
    for best, plain in zip(events.Scalars("val/best_f1"), events.Scalars("val/f1"), strict=True):
        assert best.value >= plain.value - 1e-4
    printed = capsys.readouterr().out
    assert "expected calibration error" in printed
    assert "At 90% precision this model answers" in printed
    events = curves(tmp_path / "lightning_logs" / "version_0")
    assert {"val/HasAns_f1", "val/NoAns_f1", "val/exact_match", "val/f1"} <= set(events.Tags()["scalars"])
    assert commands.evaluate(["--model", str(model), "--data", data]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("HasAns_exact", "HasAns_f1", "NoAns_f1", "NoAns_total    80"))
    assert f"threshold and temperature were fitted to {data} itself" in out


def test_averaged_weights_are_what_is_validated_and_written(tmp_path, model_folder) -> None:
    data = write_json(tmp_path / "train.json", make_rows(40))
    given = [*train_flags(tmp_path, model_folder, data, data), *AVERAGED, "--trainer.max_epochs", "1"]
    assert commands.train(given) == 0
    folder = tmp_path / "lightning_logs" / "version_0"
    best = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    for name, weight in load_file(folder / "model" / "model.safetensors").items():
        assert torch.equal(weight, best["state_dict"][f"model.{name}"])
        assert not torch.equal(weight, best["current_model_state"][f"model.{name}"])


def test_averages_of_position_numbers_are_refused(tmp_path, model_folder) -> None:
    """Lightning's default averages them: 0.9 * n + 0.1 * n, made an integer again, is sometimes n - 1."""
    data = write_json(tmp_path / "train.json", make_rows(40))
    given = [*train_flags(tmp_path, model_folder, data, data), "--trainer.callbacks+", "EMAWeightAveraging"]
    with pytest.raises(InputError, match=r"EMAWeightAveraging averages buffers .*; pass --ema_decay instead"):
        commands.train(given)
    assert commands.train([*given, "--trainer.callbacks.use_buffers", "false", "--trainer.max_epochs", "1"]) == 0


@pytest.mark.parametrize("decay", ["0", "1", "1.5"])
def test_a_decay_that_is_none_is_refused(tmp_path, model_folder, decay) -> None:
    data = write_json(tmp_path / "train.json", make_rows(10))
    with pytest.raises(InputError, match=rf"--ema_decay is {float(decay)}; it must be between 0 and 1"):
        commands.train([*train_flags(tmp_path, model_folder, data, data), "--ema_decay", decay])


def test_the_best_checkpoint_of_version_2_data_is_that_of_the_best_threshold(tmp_path, model_folder, capsys) -> None:
    """A threshold that no answer passes makes F1 the same in all epochs; F1 under the best threshold differs."""
    data = write_json(tmp_path / "v2.json", make_rows(40, unanswerable=20))
    never = ("--model.null_score_diff_threshold", "-1000000", "--trainer.max_epochs", "6")
    assert commands.train([*train_flags(tmp_path, model_folder, data, data), *never]) == 0
    folder = tmp_path / "lightning_logs" / "version_0"
    events = curves(folder)
    best = events.Scalars("val/best_f1")
    assert {point.value for point in events.Scalars("val/f1")} == {50.0}
    assert max(point.value for point in best) > best[0].value
    saved = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    assert saved["global_step"] == max(best, key=lambda point: point.value).step + 1
    line = r"^epoch \d/6 +EM +50.00  F1 50.00 \(([\d.]+) at the best threshold\)"
    epochs = re.findall(line, capsys.readouterr().out, re.MULTILINE)
    assert [float(f1) for f1 in epochs] == pytest.approx([point.value for point in best], abs=0.006)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data.dataset", "nothing.json"], ["--data.dataset nothing.json: no such file"]),
        (["--model.model_name", "nobody/no-such-model"], ["'nobody/no-such-model'", "train --config quickstart"]),
        (["--ckpt_path", "gone.ckpt"], ["--ckpt_path gone.ckpt: no such file"]),
        (["--ckpt_path", "last"], ["--ckpt_path last: there is no run in"]),
        (["--data.max_length", "256"], ["--data.max_length 256 is more than the 128 positions", "128 or less"]),
        (["--data.doc_stride", "400"], ["--data.doc_stride 400", "room for context"]),
        (["--data.batch_size", "0", "--data.eval_batch_size", "-1"], ["batch_size is 0", "eval_batch_size is -1"]),
        (["--model.learning_rate", "0"], ["--model.learning_rate is 0"]),
        (["--model.learning_rate", "fast"], ["learning_rate"]),
        (["--data.no_such_flag", "1"], ["no_such_flag"]),
        (["--trainer.precision", "12-bit"], ["precision"]),
        (
            ["--trainer.overfit_batches", "2", "--data.tokens_per_batch", "4096"],
            ["--trainer.overfit_batches 2 does not go together with --data.tokens_per_batch"],
        ),
        (
            ["--trainer.callbacks", "GradientAccumulationScheduler", "--trainer.callbacks.scheduling", "{0: 2}"],
            ["changes how many batches a step has", "--trainer.accumulate_grad_batches instead"],
        ),
    ],
)
def test_bad_input_is_one_clear_error_and_a_status(tmp_path, model_folder, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    data = write_json(tmp_path / "train.json", make_rows(8))
    given = ["--data.dataset", data, "--model.model_name", model_folder, "--data.max_length", "128"]
    given += ["--data.doc_stride", "20", *arguments]
    with pytest.raises(SystemExit) as caught:
        commands.run_command(lambda: commands.train(given))
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert all(word in err for word in words), err
    assert not list(tmp_path.glob("lightning_logs/*/checkpoints"))


@pytest.mark.slow
def test_help_begins_with_a_screen_that_a_person_can_read() -> None:
    result = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "train.py"), "--help_all"], capture_output=True, text=True, check=True
    )
    screen = "\n".join(result.stdout.splitlines()[:40])
    for flag in ("--data.dataset", "--model.learning_rate", "--trainer.devices", "--ckpt_path", "--config"):
        assert flag in screen
    assert all(len(line) <= 120 for line in screen.splitlines())
    assert "--trainer.accumulate_grad_batches" in result.stdout  # every flag is listed further down
    assert result.stderr == ""


@pytest.mark.slow
@pytest.mark.parametrize("script", ["train", "evaluate", "predict"])
def test_scripts_fail_without_a_traceback(script: str, tmp_path) -> None:
    arguments = {
        "train": ["--data.dataset", "gone.json"],
        "evaluate": ["--predictions", "gone.json", "--data", "gone.json"],
        "predict": ["--model", "gone/folder/here", "--question", "Who?", "--context", "Ben."],
    }[script]
    words = [ROOT / "scripts" / f"{script}.py", *arguments]
    if script == "predict":  # what imports print in a new Python: of the others, other tests look at it
        words = [sys.executable, *words]
        result = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)  # type: ignore[arg-type]
    else:
        result = finished(words, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr
    assert "gone" in result.stderr


def test_precision_follows_the_hardware(monkeypatch) -> None:
    assert default_precision("cpu") == "32-true"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for has_bf16, expected in ((True, "bf16-mixed"), (False, "16-mixed")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True, has=has_bf16: has)
        assert default_precision("auto") == expected
        assert default_precision("cpu") == "32-true"


def test_last_is_the_newest_runs_checkpoint_as_runs_say_and_not_as_files_are_dated(tmp_path) -> None:
    for number, hour in ((0, 8), (1, 12), (2, 10)):
        folder = tmp_path / f"version_{number}" / "checkpoints"
        folder.mkdir(parents=True)
        none = {"ready": 0, "started": 0, "processed": 0, "completed": 0}
        progress = {"total": none, "current": none}
        loop = {"state_dict": {}, "epoch_loop.state_dict": {"_batches_that_stepped": 0}, "epoch_progress": progress}
        loops = {"fit_loop": {**loop, "epoch_loop.batch_progress": progress}}
        lists: dict = {"optimizer_states": [], "lr_schedulers": []}
        torch.save({"state_dict": {}, "loops": loops, "global_step": number, **lists}, folder / "last.ckpt")
        append_run(folder.parent / "run.json", {"started": f"2026-01-01T{hour:02}:00:00+00:00"})
        os.utime(folder / "last.ckpt", (1000 + number, 1000 + number))
    run = tmp_path / "version_1"
    begun = find_beginning("last", tmp_path)
    assert (begun.checkpoint, begun.folder, begun.step) == (run / "checkpoints" / "last.ckpt", run, 1)
    assert find_beginning(None, tmp_path) == Beginning()


@pytest.mark.parametrize("given", [None, "last", "elsewhere.ckpt"])
def test_what_torchrun_starts_again_goes_on_with_its_own_run(tmp_path, given) -> None:
    """Whatever began it: also if another run is newer. A finished run stays as it is."""
    started = "2026-01-01T08:00:00+00:00"
    for number, launch in enumerate(["ours", "another's"]):
        start = {"started": started.replace("08", f"0{number}"), "launch": launch, "slurm_job": None}
        append_run(tmp_path / f"version_{number}" / "run.json", start)
    found = find_beginning(given, tmp_path, "ours")
    assert (found.checkpoint, found.folder, found.step) == (None, tmp_path / "version_0", 0)
    append_run(tmp_path / "version_0" / "run.json", {"launch": "ours", "finished": started})
    assert find_beginning(None, tmp_path, "ours") == Beginning()


def test_defaults_are_the_known_recipe_and_configs_squad_yaml_says_the_same(capsys) -> None:
    defaults = commands.printed_config([], capsys)
    assert (
        defaults["model"].items()
        >= {
            "model_name": "bert-base-cased",
            "learning_rate": 2e-5,
            "weight_decay": 0.01,
            "warmup_ratio": 0.0,
        }.items()
    )
    assert (
        defaults["data"].items()
        >= {
            "dataset": "rajpurkar/squad",
            "max_length": 384,
            "doc_stride": 128,
            "batch_size": 8,
        }.items()
    )
    assert (defaults["trainer"]["max_epochs"], defaults["trainer"]["devices"], defaults["seed_everything"]) == (
        3,
        1,
        42,
    )
    assert commands.printed_config(["--config", str(ROOT / "configs" / "squad.yaml")], capsys) == defaults


def test_configs_squad_v2_yaml_differs_in_the_dataset_alone(capsys) -> None:
    config = commands.printed_config(["--config", str(ROOT / "configs" / "squad_v2.yaml")], capsys)
    assert config["data"].pop("dataset") == "rajpurkar/squad_v2"
    defaults = commands.printed_config([], capsys)
    defaults["data"].pop("dataset")
    assert config == defaults


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_each_config_has_only_flags_that_there_are_and_keeps_its_values(path, capsys) -> None:
    config = commands.printed_config(["--config", str(path)], capsys)
    for group, values in yaml.safe_load(path.read_text()).items():
        assert config[group] == values if not isinstance(values, dict) else config[group].items() >= values.items()


def test_a_flag_overrides_a_config_file(capsys) -> None:
    quickstart = ["--config", str(ROOT / "configs" / "quickstart.yaml")]
    assert commands.printed_config(quickstart, capsys)["data"]["dataset"] == "synthetic"
    changed = commands.printed_config(
        [*quickstart, "--trainer.devices", "4", "--trainer.precision", "16-mixed"], capsys
    )
    assert (int(changed["trainer"]["devices"]), changed["trainer"]["precision"]) == (4, "16-mixed")


def test_export_holds_what_safetensors_holds(run) -> None:
    assert load_file(version(run) / "model" / "model.safetensors")["qa_outputs.weight"].dtype == torch.float32


def test_a_compiler_that_is_missing_is_named_with_the_flag(tmp_path, model_folder, monkeypatch) -> None:
    def without_compiler(graph, inputs):
        raise RuntimeError("no C++ compiler found")

    torch._dynamo.reset()
    monkeypatch.setattr("qa_lightning.training.module.COMPILER", without_compiler)
    train = write_json(tmp_path / "train.json", make_rows(10))
    with pytest.raises(InputError, match=r"^--model.compile true: .*no C\+\+ compiler found.*leave the flag out"):
        commands.train([*train_flags(tmp_path, model_folder, train, train), "--model.compile", "true"])


def test_compiled_runs_export_plain_names(tmp_path, model_folder, monkeypatch) -> None:
    torch._dynamo.reset()
    monkeypatch.setattr("qa_lightning.training.module.COMPILER", "eager")
    train = write_json(tmp_path / "train.json", make_rows(40, long=4))
    given = [*train_flags(tmp_path, model_folder, train, train), "--model.compile", "true", "--trainer.max_epochs", "1"]
    assert commands.train(given) == 0
    folder = tmp_path / "lightning_logs" / "version_0"
    assert (
        load_file(folder / "model" / "model.safetensors").keys()
        == load_file(Path(model_folder) / "model.safetensors").keys()
    )


@pytest.mark.parametrize(
    ("error", "size", "smaller"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
            "--batch_size 8",
            "batch_size 4",
        ),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory"),
            "--tokens_per_batch 200",
            "tokens_per_batch 100",
        ),
    ],
)
def test_running_out_of_memory_names_the_flags_that_help_with_values(
    tmp_path, model_folder, monkeypatch, error, size, smaller
) -> None:
    def fail(self, batch, batch_idx):
        raise error

    monkeypatch.setattr(QALightningModule, "training_step", fail)
    train = write_json(tmp_path / "train.json", make_rows(20))
    given = [*train_flags(tmp_path, model_folder, train, train), "--trainer.accumulate_grad_batches", "3"]
    with pytest.raises(InputError) as caught:
        commands.train([*given, *size.replace("--", "--data.").split()])
    text = str(caught.value)
    assert f"out of memory at step 0 with --data.{size[2:]}, --data.max_length 48" in text
    assert f"--data.{smaller} --trainer.accumulate_grad_batches 6" in text
    assert "--trainer.precision bf16-mixed" in text
    assert str(error)[:30] in text


def test_other_errors_are_not_taken_for_a_lack_of_memory(tmp_path, model_folder, monkeypatch) -> None:
    def fail(self, batch, batch_idx):
        raise RuntimeError("something else")

    monkeypatch.setattr(QALightningModule, "training_step", fail)
    train = write_json(tmp_path / "train.json", make_rows(20))
    with pytest.raises(RuntimeError, match="something else"):
        commands.train(train_flags(tmp_path, model_folder, train, train))


def test_a_tokenizer_that_knows_more_than_its_model_is_refused_before_data_is_read(tmp_path, model_folder) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(folder)
    train = write_json(tmp_path / "train.json", make_rows(8))
    with pytest.raises(
        InputError, match=r"^--model.model_name: .* they do not belong together.*resize_token_embeddings"
    ):
        commands.train(train_flags(tmp_path, str(folder), train, train))


# The training of the flags that follow, whose second epoch waits for a file: the first word.
WAITING = """
import os, sys, time
from lightning.pytorch import Callback
from qa_lightning.cli.main import run
from qa_lightning.training import flags

class Waits(Callback):
    def on_train_epoch_start(self, trainer, pl_module):
        for _ in range(600 if trainer.current_epoch else 0):
            if os.path.exists(seen):
                return
            time.sleep(0.1)
        if trainer.current_epoch:
            os._exit(9)

seen = sys.argv.pop(1)
default = flags.default_callbacks
flags.default_callbacks = lambda interactive: [*default(interactive), Waits()]
run("train")
"""


def test_lines_come_when_they_are_said_into_a_pipe_too(tmp_path, model_folder) -> None:
    train = write_json(tmp_path / "train.json", make_rows(16))
    (tmp_path / "waiting.py").write_text(WAITING)
    words = [tmp_path / "waiting.py", tmp_path / "seen", *train_flags(tmp_path, model_folder, train, train)]
    with Started([*words, "--trainer.max_epochs", "2"], stdout=subprocess.PIPE) as process:
        assert any(re.match("epoch 1/2 .* EM ", line) for line in process.stdout)
        (tmp_path / "seen").touch()
        assert any(re.match("epoch 2/2 .* EM ", line) for line in process.stdout)
        process.kill()
