"""The benchmarks' peers work as they claim, and the scripts run; what they measure is not tested."""

from __future__ import annotations

import json
import re
import sys

import numpy as np
import pytest

from qa_lightning.decoding.decoder import FeatureLogits
from qa_lightning.decoding.predictions import Rows
from qa_lightning.features.store import FeatureStore
from qa_lightning.features.windows import Windower, WindowSettings
from tests.helpers.data import make_rows
from tests.helpers.decoding import predict
from tests.helpers.paths import ROOT
from tests.helpers.processes import finished

FOLDER = ROOT / "benchmarks"


@pytest.fixture
def peers(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import peers

    monkeypatch.setattr(peers, "MAX_LENGTH", 64)
    monkeypatch.setattr(peers, "DOC_STRIDE", 16)
    return peers


def test_the_padded_peer_has_our_windows_and_labels(peers, tokenizer) -> None:
    rows = make_rows(30, unanswerable=5, long=6)
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    padded = peers.padded_features(tokenizer, columns, training=True)
    spans = [
        (row["answers"]["answer_start"][0], row["answers"]["answer_start"][0] + len(row["answers"]["text"][0]))
        if row["answers"]["text"]
        else None
        for row in rows
    ]
    batch = Windower(tokenizer, WindowSettings(64, 16, 20))(columns["question"], columns["context"], spans)
    assert len(padded["input_ids"]) == len(batch.windows) > 30
    assert padded["start_positions"] == batch.windows["start"].tolist()
    assert padded["end_positions"] == batch.windows["end"].tolist()
    assert {len(ids) for ids in padded["input_ids"]} == {64}


def test_the_top_20_peer_finds_a_clear_answer(peers, tokenizer) -> None:
    rows = make_rows(12, long=4)
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    padded = peers.padded_features(tokenizer, columns, training=False)
    features = [
        {"example_id": padded["example_id"][number], "offset_mapping": padded["offset_mapping"][number]}
        for number in range(len(padded["input_ids"]))
    ]
    random = np.random.default_rng(0)
    start, end = random.normal(size=(2, len(features), 64)).astype(np.float32)
    for number, feature in enumerate(features):
        token = random.choice([index for index, pair in enumerate(feature["offset_mapping"]) if pair])
        start[number, token] += 20
        end[number, token] += 20
    store = FeatureStore.of_batch(
        Windower(tokenizer, WindowSettings(64, 16, 20))(columns["question"], columns["context"], [None] * len(rows))
    )
    logits = [
        np.concatenate(
            [
                values[number, window["context_begin"] : window["context_begin"] + window["context_length"]]
                for number, window in enumerate(store.windows)
            ]
        )
        for values in (start, end)
    ]
    null = np.zeros(len(store), np.float32)
    collected = FeatureLogits(np.arange(len(store)), store.windows["context_length"], *logits, null, null)
    ours = {answer.id: answer.text for _, _, answer in predict(collected, store, Rows(rows), False, 1, 30).rows()}
    theirs = peers.top_20_answers(rows, features, start, end)
    assert {key: text for key, (text, _) in theirs.items()} == ours


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "flags", "variants"),
    [
        ("windowing", [], ["encode_batch", "ours-validation", "course-training"]),
        ("decoding", [], ["top-20-by-top-20", "ours"]),
        (
            "training",
            ["--batch-size", "2", "--peer-batch-size", "2", "--peer-steps", "1", "--warmup-steps", "1"],
            ["padded-384", "ours-float32"],
        ),
    ],
)
def test_a_benchmark_prints_a_table_with_ratios(tmp_path, tokenizer, script, flags, variants) -> None:
    data, vocab = tmp_path / "data.json", tmp_path / "vocab.txt"
    data.write_text(json.dumps(make_rows(120)))
    pieces = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    vocab.write_text("".join(f"{piece}\n" for piece, _ in pieces))
    command = [str(FOLDER / f"bench_{script}.py"), "--data", str(data), "--vocab", str(vocab)]
    command += ["--questions", "8" if script == "training" else "120", "--rounds", "1", "--only", *variants]
    ended = finished([*command, *flags])
    assert ended.returncode == 0, ended.stderr
    rows = [line.split(" | ") for line in ended.stdout.splitlines() if line.startswith("| ")]
    assert [row[0].removeprefix("| ") for row in rows] == ["variant", *variants]
    ratios = [row[-1].removesuffix(" |") for row in rows[1:]]
    assert ratios[0] == "1.00"
    assert all(re.fullmatch(r"\d+\.\d\d", ratio) for ratio in ratios)


def test_the_benchmark_of_documents_measures_recall_and_answers(tmp_path, model_folder, monkeypatch, capsys) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    import bench_documents

    data = tmp_path / "data.json"
    data.write_text(json.dumps(make_rows(20)))
    flags = ["--data", str(data), "--questions", "4", "--candidates", "1", "1000"]

    def printed(*more: str) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["bench_documents.py", *flags, *more])
        bench_documents.main()
        _, collection, *lines = capsys.readouterr().out.splitlines()
        assert re.fullmatch(r"Collection\(\d+ documents, \d+ passages\), 20 questions", collection)
        return lines

    recall = printed()
    assert re.match(r"candidates    1: own paragraph \d+\.\d%, answer's text \d+\.\d%, ", recall[0])
    assert recall[1].startswith("candidates 1000: own paragraph 100.0%, answer's text 100.0%, ")
    scores = printed("--model", model_folder)
    each = [f"candidates {count:>4}, prior {prior}" for count in (1, 1000) for prior in (0, 1)]
    assert [line.split(":")[0] for line in scores] == ["paragraph given", *each]
    assert all(re.search(r": EM \d+\.\d\d, F1 \d+\.\d\d, \d+\.\d\d questions/s$", line) for line in scores)


@pytest.mark.slow
def test_the_benchmark_of_a_gpu_measures_steps_and_a_whole_run(tmp_path) -> None:
    """On a CPU, to see that it runs; its figures need a GPU."""
    output = tmp_path / "gpu.json"
    flags = ["--shapes", "tiny", "--only", "ours", "course", "--batches", "4", "--steps", "2"]
    flags += ["--epochs", "8", "--windows", "128", "--output", str(output)]
    ended = finished([FOLDER / "bench_gpu.py", *flags])
    assert ended.returncode == 0, ended.stderr
    found = json.loads(output.read_text())
    course, ours = found["steps"]
    assert (course["variant"], ours["variant"]) == ("course", "ours")
    assert ours["padding_share"] < 0.1 < 0.3 < course["padding_share"] < 0.8
    whole = found["epochs-8"]
    assert whole["training_windows"] == 128
    assert 0 < whole["training_seconds"] < whole["seconds"] < whole["seconds_for_squad"]
    table = [line.split(" | ")[0] for line in ended.stdout.splitlines() if line.startswith("| ")]
    assert table == ["| variant", "| course", "| ours"]
