"""Test predict --engine ray: the answers of predict, resumed runs, lost processes, and what is refused.

Where Ray is not installed, as in CI, a stand-in for it answers in this process.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from qa_lightning.errors import InputError
from qa_lightning.inference.bulk.run import AskedRows
from qa_lightning.inference.bulk.workers import PredictSettings
from qa_lightning.inference.cluster import run as cluster
from qa_lightning.inference.cluster.folder import AnswerFolder
from qa_lightning.inference.cluster.machines import QUIET, READER_CPUS, ClusterSettings, Share
from qa_lightning.inference.cluster.run import answer_on_ray
from qa_lightning.inference.reader import Reader
from tests.helpers import commands
from tests.helpers.bulk import BATCH, ROWS, bare, lines_of, write
from tests.helpers.forms import as_lines
from tests.helpers.paths import ROOT
from tests.helpers.stand_in_ray import stand_in

WITH_RAY = find_spec("ray") is not None
ray_only = pytest.mark.skipif(not WITH_RAY, reason="Ray is not installed")
pytestmark = pytest.mark.filterwarnings("default")  # Ray's own
CPUS = [{"CPU": 2.0, "node:here": 1.0}]


@pytest.fixture(scope="module")
def _cluster():
    """A real cluster of two CPUs on this machine."""
    os.environ |= QUIET
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(params=["stand-in", pytest.param("ray", marks=[ray_only, pytest.mark.slow])])
def engine(request, monkeypatch) -> str:
    if request.param == "ray":
        request.getfixturevalue("_cluster")
    else:
        use(monkeypatch, stand_in(CPUS))
    return request.param


def use(monkeypatch, ray) -> None:
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.data", ray.data)
    monkeypatch.setenv("RAYON_NUM_THREADS", "1")  # and is set back, as what an actor sets in this process
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)


def answers_in(folder: Path) -> list[dict]:
    """The answers of a folder, in the order of the input."""
    tables = [pq.read_table(path) for path in folder.glob("rows-*.parquet")]
    return sorted(pa.concat_tables(tables).to_pylist(), key=lambda row: row["row"])


def as_predict_writes(rows: list[dict]) -> list[dict]:
    """Answers as lines of predict: without the fields in which there is nothing, and without bad rows."""
    return [{name: value for name, value in row.items() if value is not None} for row in rows if row["error"] is None]


def test_the_answers_are_those_of_one_machine_and_a_finished_run_stays_as_it_is(
    engine, source, whole, ask, tmp_path, capsys
):
    output = tmp_path / "answers"
    assert ask(source, output, "--engine", "ray", "--devices", 2) == 0
    rows = answers_in(output)
    assert [row["row"] for row in rows] == list(range(1, 76))
    assert as_predict_writes(rows) == [json.loads(line) for line in whole["answers"].splitlines()]
    listed = [json.loads(line) for line in whole["errors"].splitlines()]
    bad = [row for row in rows if row["error"] is not None]
    assert [(row["row"], row["error"], row["answer"]) for row in bad] == [
        (one["row"], one["problem"], None) for one in listed
    ]
    said = capsys.readouterr()
    assert said.out.splitlines()[0] == f"answering {source} on 2 Ray actors with 1 thread each, 16 rows at a time"
    assert re.fullmatch(
        r"73 questions of 75 rows answered in [\d.]+ s, [\d.,]+ questions/s\n"
        rf"written to {output}\n2 of the rows could not be asked; their `error` in {output} says why\n",
        "".join(said.out.splitlines(keepends=True)[-3:]),
    )
    assert said.err == ""
    before = {path: path.stat().st_mtime_ns for path in output.iterdir()}
    assert ask(source, output, "--engine", "ray") == 0
    assert f"{output} is finished, 73 questions of 75 rows answered" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in output.iterdir()} == before
    assert ask(source, output, "--engine", "ray", "--overwrite") == 0
    assert answers_in(output) == rows


def test_files_and_documents_at_an_address(engine, ask, tmp_path):
    documents = [{"id": "a", "text": ROWS[0]["context"]}, {"id": "b", "text": ROWS[1]["context"]}]
    write(tmp_path / "d.jsonl", as_lines(documents))
    rows = [{"question": ROWS[0]["question"], "document_ids": ["a", "b"]}] * 20 + [
        {"question": "Who?", "context": "A."}
    ]
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / "1.jsonl", as_lines(rows))
    pq.write_table(pa.Table.from_pylist([bare(row) for row in ROWS]), tmp_path / "in" / "2.parquet", row_group_size=30)
    flags = ["--documents", tmp_path / "d.jsonl"]
    files = f"{tmp_path}/in/1.jsonl,{tmp_path}/in/2.parquet"
    assert ask(files, tmp_path / "a.jsonl", *flags) == 0
    assert ask(f"file://{tmp_path}/in", f"file://{tmp_path}/answers", "--engine", "ray", *flags) == 0
    expected = [
        {name: str(value) if name == "document" else value for name, value in line.items()}
        for line in lines_of(tmp_path / "a.jsonl")
    ]
    found = as_predict_writes(answers_in(tmp_path / "answers"))
    exact = ("row", "id", "answer", "start", "end", "document")
    for one, other in zip(found, expected, strict=True):
        assert [one.get(name) for name in exact] == [other.get(name) for name in exact]
        assert one["score"] == pytest.approx(other["score"], rel=1e-4)


def test_a_run_that_was_stopped_goes_on_with_what_is_missing(engine, source, whole, ask, tmp_path, capsys):
    output = tmp_path / "answers"
    assert ask(source, output, "--engine", "ray") == 0
    rows = answers_in(output)
    record = json.loads((output / "_run.json").read_text())
    (output / "_run.json").write_text(json.dumps(record | {"finished": None}))
    (output / "rows-000000000017-000000000032.parquet").unlink()
    cut = output / "rows-000000000065-000000000075.parquet"
    cut.write_bytes(cut.read_bytes()[:99])
    kept = {path: path.stat().st_mtime_ns for path in output.glob("rows-*") if path != cut}
    capsys.readouterr()
    assert ask(source, output, "--engine", "ray", "--devices", 2) == 0
    said = capsys.readouterr().out
    assert f"resuming {output}: 48 of 75 rows are done" in said
    assert "73 questions of 75 rows answered, 26 of them now, in" in said
    assert answers_in(output) == rows
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    with pytest.raises(InputError, match="--batch_size 2, was 1"):
        ask(source, output, "--engine", "ray", batch_size=2)


@ray_only
@pytest.mark.slow
@pytest.mark.usefixtures("_cluster")
def test_a_lost_actor_costs_no_row(tmp_path, model_folder, ask):
    source = many_rows(tmp_path)
    assert ask(source, tmp_path / "a.jsonl", batch_size=4) == 0
    output, killed = tmp_path / "answers", []

    def kill() -> None:
        while len(list(output.glob("rows-*"))) < 5:
            time.sleep(0.01)
        killed.append(actors()[0])
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    assert ask(source, output, "--engine", "ray", "--devices", 2, batch_size=4) == 0
    killer.join()
    assert killed
    assert as_predict_writes(answers_in(output)) == lines_of(tmp_path / "a.jsonl")


def many_rows(folder: Path) -> Path:
    """1,500 rows: 24 pieces of 64."""
    rows = [bare(ROWS[number % 75]) | {"id": number} for number in range(1500)]
    return write(folder / "q.jsonl", as_lines(rows))


def actors() -> list[int]:
    """The processes that answer."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if b"_Answering" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


@ray_only
@pytest.mark.slow
def test_a_killed_driver_goes_on_and_says_only_its_own_lines(tmp_path, model_folder, ask):
    """With a cluster of its own."""
    source = many_rows(tmp_path)
    assert ask(source, tmp_path / "a.jsonl", batch_size=4) == 0
    output = tmp_path / "answers"
    words = [sys.executable, "-m", "qa_lightning", "predict", "--model", model_folder, "--input", str(source)]
    words += ["--output", str(output), "--batch_size", "4", "--engine", "ray", "--ray_address", "local"]
    given = os.environ.get("PYTHONPATH", "")  # Ray may be in a folder of its own
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), given])}
    first = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
    while len(list(output.glob("rows-*"))) < 5:
        assert first.poll() is None
        time.sleep(0.01)
    first.kill()
    first.wait()
    done = len(list(output.glob("rows-*")))
    then = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=250)
    assert then.returncode == 0, then.stderr
    assert then.stderr == ""
    lines = [line for line in then.stdout.splitlines() if not line.startswith("row ")]
    assert [line.split()[0] for line in lines] == ["resuming", "answering", "1,500", "written"]
    assert done < len(list(output.glob("rows-*")))
    assert as_predict_writes(answers_in(output)) == lines_of(tmp_path / "a.jsonl")


def test_what_is_wrong_with_the_model_is_one_line(engine, source, tmp_path, model_folder, ask):
    reader = Reader.load(model_folder)
    torch.nn.init.constant_(reader.model.qa_outputs.bias, float("nan"))
    reader.model.save_pretrained(tmp_path / "model")
    reader.tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(InputError) as caught:
        ask(source, tmp_path / "answers", "--engine", "ray", "--model", tmp_path / "model")
    assert re.fullmatch(
        rf"--model {tmp_path}/model: the model's logits are not numbers \(rows \d.*\): .*", str(caught.value)
    )


def test_answers_stay_until_new_ones_can_be_computed(engine, source, tmp_path, ask):
    output, empty = tmp_path / "answers", tmp_path / "empty"
    empty.mkdir()
    assert ask(source, output, "--engine", "ray") == 0
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    for words in (["--columns.question", "qq"], ["--model", empty]):
        with pytest.raises(InputError):
            ask(source, output, "--engine", "ray", "--overwrite", *words)
        assert {path.name: path.read_bytes() for path in output.iterdir()} == before
    assert ask(source, output, "--engine", "ray", "--overwrite", "--batch_size", "2") == 0
    assert len(answers_in(output)) == 75


def test_running_out_of_memory_names_what_helps(source, tmp_path, ask, monkeypatch):
    def answer(*_, **__):
        raise MemoryError

    use(monkeypatch, stand_in(CPUS))
    monkeypatch.setattr(Reader, "answer", answer)
    with pytest.raises(InputError, match=r"what helps: --batch_size 4, with --overwrite or another --output$"):
        ask(source, tmp_path / "answers", "--engine", "ray", batch_size=8)


def test_a_file_that_cannot_be_read_to_its_end_is_one_line_and_what_is_done_is_kept(engine, tmp_path, ask):
    source = tmp_path / "q.parquet"
    pq.write_table(pa.Table.from_pylist([bare(row) for row in ROWS]), source, row_group_size=16)
    page = pq.read_metadata(source).row_group(2).column(1).data_page_offset
    content = bytearray(source.read_bytes())
    content[page : page + 40] = b"\xff" * 40
    source.write_bytes(content)
    with pytest.raises(InputError) as caught:
        ask(source, tmp_path / "answers", "--engine", "ray")
    assert len(caught.value.problems) in (1, 2)
    assert f"{source}: not a readable Parquet file (" in caught.value.problems[0]
    if engine == "stand-in":
        assert caught.value.problems[1].startswith(f"32 rows of {tmp_path}/answers are done and kept")


def test_files_that_cannot_be_counted_are_all_named(engine, tmp_path, ask, monkeypatch):
    for name in "ab":
        (tmp_path / f"{name}.parquet").write_bytes(b"PAR1 and no more")
    for small in (1 << 28, -1):
        monkeypatch.setattr(cluster, "_SMALL", small)
        with pytest.raises(InputError) as caught:
            ask(f"{tmp_path}/*.parquet", tmp_path / "answers", "--engine", "ray")
        assert [one.partition(":")[0] for one in caught.value.problems] == [f"{tmp_path}/{n}.parquet" for n in "ab"]


def test_rows_that_cannot_be_asked_are_errors_as_elsewhere(engine, tmp_path, ask):
    source = write(tmp_path / "bad.jsonl", b'{"question": "Who?", "context": " "}\n' * 3)
    for _ in range(2):
        with pytest.raises(InputError, match=r"none of its 3 rows can be asked; their `error` in .* says why"):
            ask(source, tmp_path / "answers", "--engine", "ray")
    for content, words in ((b'{"nothing": 1}\n', "no column 'question'"), (b"\n", "has no rows")):
        with pytest.raises(InputError, match=words):
            ask(write(tmp_path / "q.jsonl", content), tmp_path / "other", "--engine", "ray")
        assert not (tmp_path / "other").exists()


def test_a_folder_of_somebody_else_is_refused_and_stays(engine, source, tmp_path, ask):
    (tmp_path / "thesis").mkdir()
    mine = write(tmp_path / "thesis" / "chapters.tex", b"mine")
    with pytest.raises(InputError, match="already exists, and no run of this command wrote it"):
        ask(source, mine.parent, "--engine", "ray")
    assert mine.read_bytes() == b"mine"


def test_the_columns_are_told_once(engine, tmp_path, ask, capsys):
    rows = [{"q": row["question"], "passage": row["context"]} for row in ROWS]
    source = write(tmp_path / "q.jsonl", as_lines(rows))
    assert ask(source, tmp_path / "answers", "--engine", "ray") == 0
    assert capsys.readouterr().out.count("columns: ") == 1


def test_large_files_are_counted_on_the_cluster(engine, source, ask, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "_SMALL", -1)
    assert ask(source, tmp_path / "answers", "--engine", "ray") == 0
    assert len(answers_in(tmp_path / "answers")) == 75
    assert json.loads((tmp_path / "answers" / "_run.json").read_text())["rows"] == [[75]]


def test_a_finished_folder_that_lost_a_file_is_finished_again(source, tmp_path, ask, monkeypatch, capsys):
    use(monkeypatch, stand_in(CPUS))
    assert ask(source, tmp_path / "answers", "--engine", "ray") == 0
    before = answers_in(tmp_path / "answers")
    lost = sorted((tmp_path / "answers").glob("rows-*.parquet"))[1]
    lost.unlink()
    capsys.readouterr()
    assert ask(source, tmp_path / "answers", "--engine", "ray") == 0
    assert "is finished" not in capsys.readouterr().out
    assert answers_in(tmp_path / "answers") == before
    assert ask(source, tmp_path / "answers", "--engine", "ray") == 0
    assert "is finished" in capsys.readouterr().out


def test_a_cluster_without_cpus_is_one_line(source, tmp_path, ask, monkeypatch):
    use(monkeypatch, stand_in([{"GPU": 1.0}]))
    with pytest.raises(InputError, match=r"--engine ray: the cluster has no machine with a CPU"):
        ask(source, tmp_path / "answers", "--engine", "ray")


def test_ctrl_c_keeps_what_is_written(source, tmp_path, ask, monkeypatch, capsys):
    use(monkeypatch, stand_in(CPUS))
    write_piece = AnswerFolder.write

    def interrupted(folder, first, last, answers):
        if first == 33:
            raise KeyboardInterrupt
        write_piece(folder, first, last, answers)

    monkeypatch.setattr(AnswerFolder, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ask(source, tmp_path / "answers", "--engine", "ray")
    assert f"stopped by Ctrl-C: 32 rows of {tmp_path}/answers are done and kept; the same" in capsys.readouterr().out
    monkeypatch.undo()
    use(monkeypatch, stand_in(CPUS))
    assert ask(source, tmp_path / "answers", "--engine", "ray") == 0
    assert len(answers_in(tmp_path / "answers")) == 75


@pytest.mark.parametrize(
    ("nodes", "devices", "use_of_it"),
    [
        ([{"CPU": 2}], None, (1, 0, 1, 2, 1)),
        ([{"CPU": 2}], 2, (2, 0, 0.5, 1, 1)),
        ([{"CPU": 16}, {"CPU": 16}, {}], None, (2, 0, 15, 16, 1)),
        ([{"CPU": 16}, {"CPU": 16}], 3, (3, 0, 7, 8, 1)),
        ([{"CPU": 16}] * 4, 1, (1, 0, 15, 16, 1)),
        ([{"CPU": 32, "GPU": 4}, {"CPU": 32, "GPU": 4}], None, (8, 1, 1, 8, 2)),
        ([{"CPU": 32, "GPU": 4}], 2, (2, 1, 1, 16, 2)),
        ([{"CPU": 2}], 4, (4, 0, 0.4375, 1, 1)),
        ([{"CPU": 1}], 3, (3, 0, 0.2499, 1, 1)),  # not what a task that reads takes, too
        ([{"CPU": 8, "GPU": 8}], None, (8, 1, 0.9687, 1, 2)),
        ([{"CPU": 8, "GPU": 8}, {"CPU": 8}], None, (8, 1, 0.9687, 2, 2)),
        ([{"CPU": 0.2}, {"CPU": 2}], None, (1, 0, 1, 2, 1)),
    ],
)
def test_actors_share_what_the_cluster_has_and_leave_something_for_reading(nodes, devices, use_of_it):
    found = Share.of(stand_in(nodes), devices)
    assert (found.actors, found.gpus, found.cpus, found.threads, found.at_once) == pytest.approx(use_of_it, abs=1e-9)
    each = -(-found.actors // sum(node.get("CPU", 0) > READER_CPUS for node in nodes))
    assert min(node["CPU"] for node in nodes if node.get("CPU", 0) > READER_CPUS) - each * found.cpus >= READER_CPUS


def test_more_actors_than_gpus_are_refused():
    with pytest.raises(InputError, match="--devices 3: the Ray cluster has 2 GPUs; pass 2 or less"):
        Share.of(stand_in([{"CPU": 8, "GPU": 2}]), 3)


def test_without_ray_one_line_says_what_to_install(source, tmp_path, ask, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError) as caught:
        ask(source, tmp_path / "answers", "--engine", "ray")
    said = r'--engine ray needs the package ray \(.*\); run pip install "qa-lightning\[ray\]"'
    assert re.fullmatch(said, str(caught.value))
    assert not (tmp_path / "answers").exists()


def test_no_cluster_at_an_address_is_one_line(source, tmp_path, ask, monkeypatch):
    ray = stand_in(CPUS)
    ray.is_initialized = lambda: False
    use(monkeypatch, ray)
    with pytest.raises(InputError) as caught:
        ask(source, tmp_path / "answers", "--engine", "ray", "--ray_address", "127.0.0.1:1")
    said = "--ray_address 127.0.0.1:1: cannot connect to a Ray cluster ("
    assert str(caught.value).startswith(said)
    assert "refused" in str(caught.value)
    ray.init = lambda *_, **__: (_ for _ in ()).throw(ConnectionError("no session"))
    with pytest.raises(InputError, match=r"--ray_address auto: cannot connect to a Ray cluster \(no session\)"):
        ask(source, tmp_path / "answers", "--engine", "ray", "--ray_address", "auto")
    assert not (tmp_path / "answers").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--ray_address", "host:1"], "--ray_address goes with --engine ray"),
        (["--engine", "ray", "--shard", "1/2"], "--shard goes with --engine local: with --engine ray, Ray shares out"),
        (["--engine", "spark"], "is 'spark'; it must be local or ray"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(flags, words, capsys):
    with pytest.raises(SystemExit) as caught:
        commands.predict(["--model", "m", "--input", "q.jsonl", "--output", "a", *flags])
    assert caught.value.code == 2
    assert words in capsys.readouterr().err


def test_from_python(engine, source, tmp_path, model_folder):
    asked = PredictSettings(model_folder, "float32", BATCH)
    rows = AskedRows(str(source))
    assert answer_on_ray(asked, rows, str(tmp_path / "answers"), ClusterSettings(devices=1)) == 0
    assert len(answers_in(tmp_path / "answers")) == 75
    shutil.copy(source, tmp_path / "answers" / "q.jsonl")
    with pytest.raises(InputError, match="a file of --input; name another folder"):
        answer_on_ray(asked, AskedRows(f"{tmp_path}/answers/q.jsonl"), str(tmp_path / "answers"))
