"""The benchmarks' peers work as they claim, scripts run, pages show their results; what they measure is not tested."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import sys
from decimal import Decimal
from pathlib import Path

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
        ("windowing", [], ["encode_batch", "ours-validation"]),
        (
            "training",
            [
                *("--shape", "tiny", "--batch-size", "2", "--peer-batch-size", "2"),
                *("--peer-steps", "1", "--warmup-steps", "1"),
            ],
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
    output = tmp_path / "new" / "results.json"
    ended = finished([*command, *flags, "--output", str(output)])
    assert ended.returncode == 0, ended.stderr
    rows = [line.split(" | ") for line in ended.stdout.splitlines() if line.startswith("| ")]
    assert [row[0].removeprefix("| ") for row in rows] == ["variant", *variants]
    ratios = [row[-1].removesuffix(" |") for row in rows[1:]]
    assert ratios[0] == "1.00"
    assert all(re.fullmatch(r"\d+\.\d\d", ratio) for ratio in ratios)
    found = json.loads(output.read_text())
    assert found["command"].startswith(
        f"OMP_NUM_THREADS=1 python benchmarks/bench_{script}.py --data data.json --vocab "
    )
    assert str(tmp_path) not in output.read_text()
    assert [(run["variant"], run["round"]) for run in found["runs"]] == [(name, 1) for name in variants]
    assert all(run["peak_rss_mb"] > 50 for run in found["runs"])


def test_the_benchmark_of_documents_measures_recall_and_answers(tmp_path, model_folder, monkeypatch, capsys) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    import bench_documents

    data = tmp_path / "data.json"
    data.write_text(json.dumps(make_rows(20)))
    output = tmp_path / "documents.json"
    flags = ["--data", str(data), "--questions", "4", "--candidates", "1", "1000"]

    def printed(*more: str) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["bench_documents.py", *flags, *more, "--output", str(output)])
        bench_documents.main()
        _, collection, *lines = capsys.readouterr().out.splitlines()
        assert re.fullmatch(r"Collection\(\d+ documents, \d+ passages\), 20 questions", collection)
        return lines

    recall = printed()
    assert re.match(r"candidates    1: own paragraph \d+\.\d%, answer's text \d+\.\d%, ", recall[0])
    assert recall[1].startswith("candidates 1000: own paragraph 100.0%, answer's text 100.0%, ")
    found = json.loads(output.read_text())["runs"]
    assert [(run["variant"], run["own_paragraph_share"] == 1) for run in found][1:] == [("candidates 1000", True)]
    scores = printed("--model", model_folder)
    each = [f"candidates {count:>4}, prior {prior}" for count in (1, 1000) for prior in (0, 1)]
    assert [line.split(":")[0] for line in scores] == ["paragraph given", *each]
    assert all(re.search(r": EM \d+\.\d\d, F1 \d+\.\d\d, \d+\.\d\d questions/s$", line) for line in scores)
    found = json.loads(output.read_text())["runs"]
    assert [run["variant"] for run in found] == [" ".join(line.split(":")[0].split()) for line in scores]
    assert [f"EM {run['em']:.2f}, F1 {run['f1']:.2f}" for run in found] == [
        line[-40:].split(": ")[-1].rsplit(", ", 1)[0] for line in scores
    ]


@pytest.mark.slow
def test_the_benchmark_of_a_gpu_measures_steps_and_a_whole_run(tmp_path) -> None:
    """On a CPU, to see that it runs; its figures need a GPU."""
    output = tmp_path / "gpu.json"
    flags = ["--shapes", "tiny", "--only", "ours", "course", "--batches", "4", "--warm-up", "4", "--steps", "2"]
    flags += ["--epochs", "8", "--windows", "128", "--output", str(output)]
    ended = finished([FOLDER / "bench_gpu.py", *flags])
    assert ended.returncode == 0, ended.stderr
    _, whole, course, ours = runs = json.loads(output.read_text())["runs"]
    assert [run["variant"] for run in runs] == ["ceilings", "epochs tiny 8", "course tiny 4", "ours tiny 4"]
    assert ours["padding_share"] < 0.1 < 0.3 < course["padding_share"] < 0.8
    assert whole["training_windows"] == 128
    assert 0 < whole["training_seconds"] < whole["seconds"] < whole["seconds_for_squad"]
    table = [line.split(" | ")[0] for line in ended.stdout.splitlines() if line.startswith("| ")]
    assert table == ["| variant", "| course", "| ours"]


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import tables

    return tables


@pytest.fixture
def copied(tmp_path, tables) -> Path:
    """A copy of the pages and of the results."""
    for path in [*tables.pages(ROOT), *(FOLDER / "results").glob("*.json")]:
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    return tmp_path


def test_the_pages_show_the_results(tables, capsys) -> None:
    assert tables.main(["--check"]) == 0, capsys.readouterr().err


def measured(root: Path, name: str, figures: dict[str, dict[str, list[float]]], machine: str = "M") -> None:
    """Write a file of results as a benchmark does, of variants with a list of figures over rounds."""
    runs = [
        {"variant": variant, "round": number, **dict(zip(found, values, strict=True))}
        for variant, found in figures.items()
        for number, values in enumerate(zip(*found.values(), strict=True), start=1)
    ]
    head = {"command": "python x.py", "machine": machine, "device": "G", "versions": {"torch": "9"}}
    file = root / "benchmarks" / "results" / f"{name}.json"
    file.write_text(json.dumps({**head, "date": "2027-01-02", "load": 0.5, "runs": runs}))


def test_a_result_that_changes_changes_its_pages(tables, copied, capsys) -> None:
    rates = {"trainer-bf16": 1618.0, "ours-bf16": 1972.0}
    rates |= {f"{own}-no-attention-dropout-bf16": rate for own, rate in (("trainer", 2192.0), ("ours", 2936.0))}
    figures = {name: {"tokens_per_second": [rate], "peak_rss_mb": [5912.5]} for name, rate in rates.items()}
    measured(copied, "training-trainer", figures)
    assert tables.main([], copied) == 0
    assert tables.main(["--check"], copied) == 0
    capsys.readouterr()
    before = {path: path.read_text() for path in tables.pages(copied)}

    figures["ours-bf16"]["tokens_per_second"] = [3236.0]
    measured(copied, "training-trainer", figures, "Another machine")
    assert tables.main(["--check"], copied) == 1
    assert {path: path.read_text() for path in before} == before
    said = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in said] == ["benchmarks/README.md", "docs/training.md"]
    assert tables.main([], copied) == 0
    readme, training = ((copied / name).read_text() for name in ("benchmarks/README.md", "docs/training.md"))
    assert "| with the model's attention dropout | 1,618 tokens/s, 5.9 GB | 3,236 tokens/s, 5.9 GB | 2.0 |" in readme
    assert "bf16) | 1,618 tokens/s | 3,236 tokens/s | 2.0 times |" in training
    assert readme.count("\nAnother machine; ") == training.count("\nAnother machine; ") == 1
    outside = [tables.MARKED.sub("", text) for text in (before[copied / "docs" / "training.md"], training)]
    assert outside[0] == outside[1]
    assert tables.main(["--check"], copied) == 0


def test_medians_are_over_rounds_and_ratios_of_one_round(tables, copied) -> None:
    figures = {"torchmetrics": [1.0, 2.213, 3.0], "ours": [0.123456, 0.2, 0.1]}
    measured(copied, "scoring", {name: {"seconds": own, "questions": [12345] * 3} for name, own in figures.items()})
    assert tables.main([], copied) == 0
    page = (copied / "benchmarks" / "README.md").read_text()
    assert "| scoring 12,345 answers (torchmetrics' `SQuAD`) | 2.21 s | 0.12 s | 11 |" in page
    assert "M; G; torch 9; 2 January 2027:\n\n- `python x.py` (medians of 3 runs; load 0.5 before)\n" in page


def test_figures_that_were_typed_say_so(tables, copied) -> None:
    """What was printed is kept with its digits; a printed ratio counts more than that of two medians."""
    file = copied / "benchmarks" / "results" / "scoring.json"
    head = {"command": "python x.py", "machine": "M", "versions": None, "date": "2027-01-02", "transcribed": "by hand"}
    figures = {"torchmetrics": {"seconds": 1.5, "questions": 9}, "ours": {"seconds": 0.5, "questions": 9}}
    text = json.dumps({**head, "figures": figures, "ratios": {"ours": {"torchmetrics": 2.7}}, "note": "at night"})
    file.write_text(text.replace("0.5", "0.50"))
    assert tables.main([], copied) == 0
    page = (copied / "benchmarks" / "README.md").read_text()
    assert "| scoring 9 answers (torchmetrics' `SQuAD`) | 1.5 s | 0.50 s | 2.7 |" in page
    said = "M; versions not noted; 2 January 2027; carried over from printed output that was not kept:"
    assert f"\n{said}\n\n- `python x.py` (at night)\n" in page


def test_a_result_that_lacks_figures_is_an_error_that_names_it(tables, copied, capsys) -> None:
    """Of every file: each holds one variant for a while, when its benchmark runs."""
    from figures import Result

    for path in sorted((copied / "benchmarks" / "results").glob("*.json")):
        kept = path.read_bytes()
        measured(copied, path.stem, {Result.read(path).variants[0]: {"another": [1.0]}})
        assert tables.main([], copied) == 1, path.name
        said = capsys.readouterr().err.splitlines()
        assert said
        assert all(line.startswith("error: ") and f" results/{path.name} has no " in line for line in said), said
        path.write_bytes(kept)


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("docs/training.md", "table: speed", "table: sped", "docs/training.md: no table is named sped; "),
        ("docs/training.md", "<!-- table: speed", "<!-- speed", "no page has the table speed"),
        ("docs/scaling.md", "<!-- end -->", "", "docs/scaling.md: a table has no `<!-- end -->`"),
        ("benchmarks/results/scoring.json", '"torchmetrics"', '"other"', "scoring.json has no seconds of torchmetrics"),
        ("benchmarks/results/scoring.json", '"command"', '"order"', "it lacks command"),
        ("benchmarks/results/scoring.json", "{", "", "scoring.json: cannot be read"),
    ],
)
def test_what_is_wrong_with_pages_and_results_is_said(tables, copied, capsys, name, old, new, said) -> None:
    path = copied / name
    page = path.read_text()
    assert old in page
    path.write_text(page.replace(old, new))
    before = {path: path.read_text() for path in tables.pages(copied)}
    assert tables.main([], copied) == 1
    assert said in capsys.readouterr().err
    assert {path: path.read_text() for path in before} == before


def test_every_result_is_a_claim_with_its_command(tables) -> None:
    from contents import CLAIMS
    from figures import Result

    files = {path.stem: path for path in (FOLDER / "results").glob("*.json")}
    assert sorted(files) == sorted(CLAIMS.values())
    scripts = set()
    for path in files.values():
        result = Result.read(path)
        assert result.variants
        if result.values["command"] is None:
            assert result.transcribed
            continue
        words = [word for word in shlex.split(result.values["command"]) if "=" not in word]
        assert words[0] == "python"
        assert not [word for word in words if word.startswith("/")]
        scripts.add(words[1])
    assert scripts == {f"benchmarks/{path.name}" for path in FOLDER.glob("bench_*.py")}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("0.30", "0.30"),
        ("0.3", "0.3"),
        ("0.0312", "0.03"),
        ("9.876", "9.88"),
        ("12.04", "12.0"),
        ("1618.4", "1,618"),
        ("63930", "63,900"),
        ("2.7E3", "2,700"),
        ("0", "0"),
    ],
)
def test_numbers_have_the_digits_that_are_known_and_tell_something(tables, value, shown) -> None:
    from figures import number

    assert number(Decimal(value)) == shown


def test_sizes_and_ratios_in_a_unit_that_fits(tables) -> None:
    from figures import ratio_text, size

    assert [size(Decimal(text)) for text in ("47.6", "8E2", "1895", "2.7E3")] == [
        "48 MB",
        "800 MB",
        "1.9 GB",
        "2.7 GB",
    ]
    assert [ratio_text(Decimal(text)) for text in ("1.2188", "4.647", "15.1", "1.8")] == [
        "1.22",
        "4.6",
        "15",
        "1.8",
    ]


def test_a_command_is_recorded_as_one_types_it(monkeypatch, tmp_path) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    import harness

    (tmp_path / "m").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    words = ["/a/b/bench_x.py", "--data", "/far/away/dev v.json", "--output", "/far/x.json", "--model=/far/m/model"]
    words += ["--only", "ours", "--output=y.json", "--name", "user/name", "--folder", "./m", "--rounds", "2"]
    assert harness.command_line(words) == (
        "OMP_NUM_THREADS=1 python benchmarks/bench_x.py --data 'dev v.json' --model=model --only ours "
        "--name user/name --folder m --rounds 2"
    )


@pytest.mark.parametrize("script", sorted(path.stem for path in FOLDER.glob("bench_*.py")))
def test_every_benchmark_takes_output(script, monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    for words in (["--help"], ["--output", str(tmp_path)]):
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *words])
        with pytest.raises(SystemExit):
            runpy.run_path(str(FOLDER / f"{script}.py"), run_name="__main__")
    said = capsys.readouterr()
    assert "--output OUTPUT" in said.out
    assert "is a folder; name a file in it" in said.err


@pytest.mark.slow
def test_onnx_is_measured_with_each_number_of_threads(tmp_path, model_folder) -> None:
    pytest.importorskip("onnxruntime")
    data, output = tmp_path / "data.json", tmp_path / "onnx.json"
    data.write_text(json.dumps(make_rows(20)))
    variants = ["pytorch-1-thread", "pytorch-2-threads", "onnx-2-threads"]
    flags = ["--model", model_folder, "--data", data, "--questions", "8", "--rounds", "1", "--output", output]
    ended = finished([FOLDER / "bench_onnx_models.py", *flags, "--only", *variants])
    assert ended.returncode == 0, ended.stderr
    runs = json.loads(output.read_text())["runs"]
    assert [(run["variant"], run["threads"]) for run in runs] == list(zip(variants, (1, 2, 2), strict=True))
    ratios = [line.split(" | ")[-1] for line in ended.stdout.splitlines() if line.startswith("| ")][1:]
    assert [ratio.split(" ", 1)[1] for ratio in ratios] == [
        "to pytorch-1-thread |",
        *["to pytorch-2-threads |"] * 2,
    ]
    ended = finished([FOLDER / "bench_onnx_models.py", *flags, "--threads", "3", "--only", "onnx-1-thread"])
    assert ended.returncode == 2
    assert "no variant onnx-1-thread (choose from pytorch-3-threads, " in ended.stderr


def test_latency_is_recorded_for_each_round_of_each_length(tmp_path, model_folder) -> None:
    output = tmp_path / "latency.json"
    flags = ["--model", model_folder, "--tokens", "24", "40", "--calls", "2", "--rounds", "2", "--output", output]
    ended = finished([FOLDER / "bench_latency.py", *flags])
    assert ended.returncode == 0, ended.stderr
    runs = json.loads(output.read_text())["runs"]
    assert [run["round"] for run in runs] == [1, 1, 2, 2]
    lengths = [int(run["variant"].removesuffix(" tokens")) for run in runs]
    assert lengths == lengths[:2] * 2
    assert lengths[0] <= 24 < lengths[1] <= 40
    for run in runs:
        assert run["ratio"] == pytest.approx(run["pipeline_ms"] / run["forward_ms"], rel=1e-4)
