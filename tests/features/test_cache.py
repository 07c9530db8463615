"""Prepared data on disk: damage of any kind is noticed and mended, and users of a group share one cache."""

from __future__ import annotations

import gzip
import json
import logging
import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qa_lightning.caching import MANIFEST, build_once, damage, default_cache_dir
from qa_lightning.checks.report import check_prepared
from qa_lightning.data.columns import ReadSettings
from qa_lightning.data.division import Fold, in_validation
from qa_lightning.data.examples import read_examples
from qa_lightning.data.objects import given_source
from qa_lightning.data.sources import read_rows
from qa_lightning.errors import InputError
from qa_lightning.features import cache
from qa_lightning.features.cache import PreparedSplit, open_examples
from qa_lightning.features.windows import WindowSettings
from qa_lightning.models.loading import resolve
from tests.helpers.damage import damages, inflict, remove
from tests.helpers.data import make_rows, write_json
from tests.helpers.models import small_tokenizer
from tests.helpers.paths import ROOT
from tests.helpers.processes import environment, finished

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
fork = multiprocessing.get_context("fork")


def split(folder: Path, **changes) -> PreparedSplit:
    """Validation data with a repaired answer, so that every kind of file is there but those of all answers."""
    path = folder / "rows.json"
    if not path.exists():
        rows = make_rows(12, unanswerable=2, long=2)
        rows[3]["answers"]["answer_start"] = [2]
        write_json(path, rows)
    settings = WindowSettings(max_length=48, doc_stride=12, max_question_length=12)
    made = PreparedSplit(
        "validation", str(path), None, None, "repair", ReadSettings(), small_tokenizer(), settings, folder / "cache"
    )
    return replace(made, **changes)


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, other than locks."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".lock")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with a cache of two splits: to be copied."""
    folder = tmp_path_factory.mktemp("made")
    for one in splits_of(folder):
        one.prepare()
    return folder


def splits_of(folder: Path, **changes) -> list[PreparedSplit]:
    return [split(folder, **changes), split(folder, split="train", answers="all", **changes)]


# --- damage ---


def kinds_of_damage(whole: dict[str, bytes]) -> list[tuple[str, str]]:
    return [(name, kind) for name in whole for kind in damages(whole[name])]


def test_every_damage_to_prepared_data_is_noticed(made, tmp_path) -> None:
    whole = content(made / "cache")
    kinds = kinds_of_damage(whole)
    assert len(kinds) >= 110
    assert {Path(name).name for name, _ in kinds} >= {"examples.arrow", "windows.bin", "gold_start.bin", MANIFEST}
    cache = Path(shutil.copytree(made / "cache", tmp_path / "cache"))
    unnoticed = []
    for name, kind in kinds:
        path = cache / name
        inflict(path, kind)
        if not (damage(path.parent) or "").startswith(f"{path.name} "):
            unnoticed.append((name, kind))
        remove(path)
        path.write_bytes(whole[name])
        assert damage(path.parent) is None
    assert not unnoticed, f"{len(kinds) - len(unnoticed)} of {len(kinds)} noticed"


def test_damage_is_told_in_one_line_and_mended(made, tmp_path, said) -> None:
    whole = content(made / "cache")
    cache = Path(shutil.copytree(made / "cache", tmp_path / "cache"))
    for number, name in enumerate(whole):  # each file, damaged in one way after the other
        kinds = damages(whole[name])
        inflict(cache / name, kinds[number % len(kinds)])
        said.clear()
        for one in splits_of(made, cache_dir=cache):  # of the same file: what was repaired is told with its place
            one.prepare()
            one.open()
        (line,) = [record.getMessage() for record in said.records if record.levelno == logging.WARNING]
        assert line.startswith(f"{(cache / name).parent} is damaged and is built again: {Path(name).name} ")
        assert "\n" not in line
        assert content(cache) == whole, (name, kinds[number % len(kinds)])


@pytest.mark.parametrize("kind", ["a file in its place", "emptied", "a link to nowhere"])
def test_a_folder_that_is_none_is_made_anew(made, tmp_path, said, kind) -> None:
    folder = Path(shutil.copytree(made, tmp_path / "copy"))
    one = split(folder)
    shutil.rmtree(one.features_folder)
    if kind == "a file in its place":
        one.features_folder.write_bytes(b"x")
    elif kind == "emptied":
        one.features_folder.mkdir()
    else:
        one.features_folder.symlink_to(tmp_path / "nowhere")
    said.clear()
    assert one.prepare()
    assert f"{one.features_folder} is damaged and is built again" in said.text
    if one.features_folder.is_symlink():  # it stays a link
        one.features_folder.unlink()
        (tmp_path / "nowhere").rename(one.features_folder)
    assert content(folder / "cache") == content(made / "cache")
    assert not list((folder / "cache" / "features").glob(".*.part"))


def test_what_was_cut_off_since_a_run_began_is_not_mapped(made, tmp_path) -> None:
    folder = Path(shutil.copytree(made, tmp_path / "copy"))
    one = split(folder)
    one.prepare()
    expected = one.open()[0].windows.copy()
    inflict(one.features_folder / "windows.bin", "half")
    np.testing.assert_array_equal(one.open()[0].windows, expected)


def test_the_checks_report_and_the_tiny_model_are_kept_whole_too(made, tmp_path, said, monkeypatch) -> None:
    folder = Path(shutil.copytree(made, tmp_path / "copy"))
    reports = check_prepared([split(folder)], 10)
    (path,) = (folder / "cache" / "checks").rglob("validation.json")
    monkeypatch.setenv("QA_LIGHTNING_CACHE", str(tmp_path / "models"))
    weights = Path(resolve("tiny")) / "model.safetensors"
    before = weights.read_bytes()
    for target, again in ((path, lambda: check_prepared([split(folder)], 10)), (weights, lambda: resolve("tiny"))):
        for kind in ("flip in the middle", "half", "delete"):
            inflict(target, kind)
            said.clear()
            again()
            assert f"{target.parent} is damaged and is built again: {target.name} " in said.text
    assert check_prepared([split(folder)], 10) == reports
    assert weights.read_bytes() == before


def _race(folder: Path, barrier, queue) -> None:
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logging.getLogger("qa_lightning").addHandler(Keep(logging.WARNING))
    one = split(folder)
    barrier.wait()
    one.prepare()
    store, examples, _ = one.open()
    queue.put((lines, store.input_ids.tobytes(), examples["id"][:]))


@pytest.mark.parametrize("kind", ["flip in the middle", "half"])
def test_of_processes_that_find_damage_one_mends_it_and_none_maps_it(made, tmp_path, kind) -> None:
    folder = Path(shutil.copytree(made, tmp_path / "copy"))
    one = split(folder)
    store, examples, _ = split(made).open()
    expected = store.input_ids.tobytes(), examples["id"][:]
    inflict(one.examples_folder / "examples.arrow", kind)
    inflict(one.features_folder / "input_ids.bin", kind)
    barrier, queue = fork.Barrier(4), fork.Queue()
    processes = [fork.Process(target=_race, args=(folder, barrier, queue)) for _ in range(4)]
    for process in processes:
        process.start()
    seen = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(len(lines) for lines, *_ in seen) in ([0, 0, 0, 2], [0, 0, 1, 1])  # one line a folder
    assert all(tuple(mapped) == expected for _, *mapped in seen)


# --- shared caches ---


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that other users can reach, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def as_nobody(function, *args):
    """What a function returns, or the text of its `InputError`, in a process of another user."""
    queue = fork.Queue()

    def other_user() -> None:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        try:
            queue.put(function(*args))
        except InputError as error:
            queue.put(str(error))
        except BaseException as error:
            queue.put(repr(error))

    process = fork.Process(target=other_user)
    process.start()
    found = queue.get(timeout=60)
    process.join()
    return found


def _mapped(one: PreparedSplit) -> tuple[bool, bytes, int, list[str]]:
    made = one.prepare()
    store, examples, _ = one.open()
    return made, store.input_ids.tobytes(), len(examples), sorted(check_prepared([one], 10))


@as_root
def test_whoever_may_only_read_a_cache_uses_it(shared) -> None:
    one = split(shared)
    one.prepare()
    check_prepared([one], 10)
    before = content(shared)
    store, examples, _ = one.open()
    assert as_nobody(_mapped, one) == (False, store.input_ids.tobytes(), len(examples), ["validation"])
    assert content(shared) == before


@as_root
def test_whoever_may_not_write_is_told_so_in_one_line_with_the_fix(shared) -> None:
    one = split(shared)
    missing = as_nobody(one.prepare)
    assert missing.startswith(f"{one.examples_folder} cannot be made (Permission denied")
    assert "QA_LIGHTNING_CACHE" in missing
    one.prepare()
    inflict(one.features_folder / "windows.bin", "half")
    damaged = as_nobody(one.prepare)
    assert damaged.startswith(f"{one.features_folder} is damaged (windows.bin has ")
    assert "and cannot be built again (Permission denied" in damaged
    assert "\n" not in missing + damaged


@as_root
@pytest.mark.parametrize(("mask", "file_mode", "folder_mode"), [(0o002, 0o664, 0o775), (0o027, 0o640, 0o750)])
def test_files_folders_and_locks_have_the_modes_of_the_umask(shared, mask, file_mode, folder_mode) -> None:
    one = split(shared)
    before = os.umask(mask)
    try:
        one.prepare()
        check_prepared([one], 10)
    finally:
        os.umask(before)
    paths = [one.cache_dir, *one.cache_dir.rglob("*")]
    assert {path.suffix for path in paths} >= {".lock", ".bin", ".arrow", ".json", ".txt"}
    for path in paths:
        assert path.stat().st_mode & 0o777 == (folder_mode if path.is_dir() else file_mode), path


@as_root
def test_a_group_that_shares_a_folder_adds_to_each_others_cache(shared) -> None:
    """The folder hands on its group, and the umask lets the group write."""
    cache = shared / "cache"
    cache.mkdir()
    os.chown(cache, 0, NOBODY)
    cache.chmod(0o2775)
    one = split(shared)
    before = os.umask(0o002)
    try:
        one.prepare()
        assert as_nobody(split(shared, max_examples=3).prepare) is True
        inflict(one.features_folder / "input_ids.bin", "flip in the middle")
        assert as_nobody(one.prepare) is True  # and mends what another one made
    finally:
        os.umask(before)
    for path in cache.rglob("*"):
        assert path.stat().st_gid == NOBODY, path
        assert path.is_file() or path.stat().st_mode & 0o2000, path


# --- nowhere to write ---


STRANGER = ROOT / "tests" / "helpers" / "stranger.py"


def command(here: Path, *words: str, new: bool = False, **changed: str | None) -> subprocess.CompletedProcess[str]:
    """Run a command as its own process in the folder ``here``.

    Args:
        here: the folder.
        words: the command.
        new: start a new Python: its libraries read this environment when they are imported.
        changed: variables of the environment; None takes one away.
    """
    own = {name: value for name, value in {**environment(), **changed}.items() if value is not None}
    if not new:
        return finished([STRANGER, *words], cwd=here, env=own)
    started = [sys.executable, STRANGER, *words]
    return subprocess.run(started, cwd=here, env=own, capture_output=True, text=True, check=False, timeout=300)


def assert_one_line(ended, *parts: str) -> None:
    assert ended.returncode == 2, ended.stderr
    lines = [line for line in ended.stderr.splitlines() if "Warning" not in line]
    assert len([line for line in lines if line.startswith("error: ")]) == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    assert [part for part in parts if part not in ended.stderr] == []


@pytest.mark.slow
@pytest.mark.parametrize(("model", "limit"), [("a folder", 3000), ("tiny", 100_000)])
def test_a_disk_that_fills_up_is_one_line_and_leaves_nothing_half_made(tmp_path, model_folder, model, limit) -> None:
    path = write_json(tmp_path / "rows.json", make_rows(50))
    cache, here = tmp_path / "cache", tmp_path / "here"
    here.mkdir()
    name = model_folder if model == "a folder" else model
    ended = command(
        here,
        *("train", "--data.dataset", path, "--data.validation", path, "--model.model_name", name),
        *("--data.max_length", "48", "--data.doc_stride", "12", "--data.max_question_length", "12"),
        *("--trainer.accelerator", "cpu"),
        MAX_FILE_BYTES=str(limit),
        QA_LIGHTNING_CACHE=str(cache),
    )
    assert_one_line(ended, f"error: {cache}", "File too large", "free some space there", "QA_LIGHTNING_CACHE")
    assert not [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"]


@pytest.mark.slow
def test_without_a_home_one_line_says_what_to_set(tmp_path, model_folder) -> None:
    here = tmp_path / "here"
    here.mkdir()
    words = ("evaluate", "--model", model_folder, "--data", write_json(tmp_path / "rows.json", make_rows(5)))
    unset = {"QA_LIGHTNING_CACHE": None, "XDG_CACHE_HOME": None}
    ended = command(here, *words, new=True, HOME=None, **unset)
    assert_one_line(ended, "let QA_LIGHTNING_CACHE, or HOME, name a folder")
    ended = command(here, *words, HOME="/proc/nowhere", **unset)
    assert_one_line(ended, "error: /proc/nowhere/.cache/qa_lightning/", " cannot be made (", "QA_LIGHTNING_CACHE")
    assert not list(here.iterdir())


@pytest.mark.slow
def test_a_full_folder_of_temporary_files_is_one_line(tmp_path) -> None:
    path = write_json(tmp_path / "rows.json", make_rows(50))
    (tmp_path / "temporary").mkdir()
    ended = command(tmp_path, "check-data", path, MAX_FILE_BYTES="3000", TMPDIR=str(tmp_path / "temporary"))
    assert_one_line(ended, f"temporary files cannot be written in {tmp_path / 'temporary'} (File too large); free")
    assert not list((tmp_path / "temporary").iterdir())


def test_ids_that_do_not_fit_into_temporary_files_are_one_line(tmp_path, monkeypatch) -> None:
    connect = sqlite3.connect

    def small(*args, **options):
        base = connect(*args, **options)
        base.execute("PRAGMA max_page_count = 10")
        return base

    monkeypatch.setattr(sqlite3, "connect", small)
    path = write_json(tmp_path / "rows.json", make_rows(1000))
    with pytest.raises(InputError, match=r": temporary files cannot be written.* \(database or disk is full\); free"):
        split(tmp_path, source=path).prepare()
    assert not [folder for folder in (tmp_path / "cache" / "examples").iterdir() if folder.is_dir()]


def test_a_process_that_waits_for_another_says_so(tmp_path, said) -> None:
    begun, go_on = fork.Event(), fork.Event()

    def slowly(part: Path) -> None:
        begun.set()
        go_on.wait(60)
        (part / "a.bin").write_bytes(b"a")

    process = fork.Process(target=build_once, args=(tmp_path / "made", slowly))
    process.start()
    begun.wait(60)
    threading.Timer(0.2, go_on.set).start()
    assert build_once(tmp_path / "made", lambda part: pytest.fail("built twice")) is False
    process.join()
    assert f"waiting for another process, which makes {tmp_path / 'made'}" in said.text


def test_a_file_system_without_locks_is_one_line(tmp_path, monkeypatch) -> None:
    def unsupported(*args, **options):
        raise NotImplementedError("FileSystem does not appear to support flock; use SoftFileLock instead")

    monkeypatch.setattr("filelock.FileLock.acquire", unsupported)
    with pytest.raises(InputError, match=r"made cannot be made .*does not appear to support flock.*QA_LIGHTNING_CACHE"):
        build_once(tmp_path / "made", lambda part: None)


def test_a_user_who_is_not_known_is_one_line(monkeypatch) -> None:
    monkeypatch.setenv("QA_LIGHTNING_CACHE", "~nobody-of-that-name/cache")
    with pytest.raises(InputError, match=r"^QA_LIGHTNING_CACHE ~nobody-of-that-name/cache: its folder"):
        default_cache_dir()


# --- the manifest ---


def test_a_whole_folder_is_read_once_a_process_and_again_once_it_changed(tmp_path, monkeypatch) -> None:
    folder = tmp_path / "made"
    build_once(folder, lambda part: (part / "a.bin").write_bytes(b"abc"))
    assert damage(folder) is None
    monkeypatch.setattr("qa_lightning.caching._checksum", lambda path: pytest.fail(f"{path} was read again"))
    assert damage(folder) is None
    monkeypatch.undo()
    (folder / "a.bin").write_bytes(b"abd")
    os.utime(folder / "a.bin", ns=(1, 1))
    assert damage(folder, thorough=False) is None
    assert damage(folder) == "a.bin holds other bytes than were written"


def test_the_manifest_lists_every_file_below_a_folder(tmp_path) -> None:
    def build(part: Path) -> None:
        (part / "in it").mkdir()
        (part / "in it" / "a b.bin").write_bytes(b"\0" * 10)
        (part / "empty").touch()

    build_once(tmp_path / "made", build)
    names = [line.split(" ", 2)[2] for line in (tmp_path / "made" / MANIFEST).read_text().splitlines()[:-1]]
    assert names == ["empty", "in it/a b.bin"]
    inflict(tmp_path / "made" / "in it" / "a b.bin", "delete")
    assert damage(tmp_path / "made") == "in it/a b.bin cannot be read (No such file or directory)"


def test_what_was_counted_of_a_split_is_read_from_whole_files(made) -> None:
    rows, windows = split(made).summaries()
    assert rows["rows"] == 12
    assert len(rows["repaired"]) == 1
    assert json.loads((split(made).features_folder / "summary.json").read_text()) == windows


def test_a_fold_has_questions_of_the_kinds_that_the_source_has(tmp_path) -> None:
    write_json(tmp_path / "rows.json", make_rows(6, unanswerable=1))
    for name in ("validation", "train"):
        folds = [split(tmp_path, split=name, fold=Fold(number, 6, 0)) for number in range(1, 7)]
        assert [one.open()[2] for one in folds] == [True] * 6
        assert sum(one.summaries()[0]["unanswerable"] for one in folds) == (1 if name == "validation" else 5)
    write_json(tmp_path / "rows.json", make_rows(6))
    assert not split(tmp_path, fold=Fold(1, 6, 0)).open()[2]


# --- several processes ---


@pytest.fixture
def small_chunks(monkeypatch) -> None:
    monkeypatch.setattr("qa_lightning.data.chunks._ROWS", 7)
    monkeypatch.setattr("qa_lightning.features.cache._ROWS", 5)


def bad_rows() -> list[dict]:
    """Rows with every kind of fault, in several chunks: bad, repeated, to be repaired, bad answers beside good ones."""
    rows = make_rows(60, unanswerable=9, long=5)
    for number in (3, 17, 18, 44):
        rows[number] = {**rows[number], "question": " "}
    for number in (5, 29):
        rows[number]["answers"]["answer_start"] = [rows[number]["answers"]["answer_start"][0] + 1]
    rows[30]["answers"]["text"] = ["not there"]
    rows[31]["answers"] = {"text": [*rows[31]["answers"]["text"], "x" * 9], "answer_start": [0, 0]}
    rows[40]["id"] = rows[2]["id"]
    rows[41]["id"] = rows[40]["id"]
    return rows


@pytest.mark.parametrize(
    ("on_bad_rows", "changes"),
    [
        ("skip", {}),
        ("repair_or_skip", {"divided": (0.4, 1)}),
        ("repair_or_skip", {"split": "train", "answers": "all"}),
    ],
)
def test_any_number_of_processes_prepares_the_same_bytes(tmp_path, small_chunks, on_bad_rows, changes) -> None:
    write_json(tmp_path / "rows.json", bad_rows())
    seen = []
    for workers in (1, 3):
        made = split(tmp_path, on_bad_rows=on_bad_rows, cache_dir=tmp_path / str(workers), workers=workers, **changes)
        assert made.prepare()
        seen.append(content(tmp_path / str(workers)))
        assert not multiprocessing.active_children()
    assert seen[0] == seen[1]
    names = {Path(name).name for name in seen[0]}
    assert {"examples.arrow", "windows.bin", "left_out.txt", "summary.json"} <= names
    part = changes.get("divided")
    wanted = (lambda context, _: in_validation(context, *part)) if part else lambda *_: True
    one_by_one = list(read_examples(read_rows(made.source, "validation"), on_bad_rows, keep=wanted))
    assert [{**row, "title": None} for row in one_by_one] == list(open_examples(made.examples_folder))
    assert len(one_by_one) > 10


def test_long_contexts_are_cut_few_at_a_time_to_the_same_windows(tmp_path, monkeypatch) -> None:
    """What is in memory at once does not grow with the length of contexts."""
    write_json(tmp_path / "rows.json", make_rows(60, long=40))
    seen, jobs = [], []
    for most in (1 << 22, 900):
        monkeypatch.setattr("qa_lightning.features.cache._BYTES", most)
        made = split(tmp_path, cache_dir=tmp_path / str(most), workers=1)
        assert made.prepare()
        seen.append(content(tmp_path / str(most)))
        contexts = open_examples(made.examples_folder)["context"]
        jobs.append(list(cache._parts(open_examples(made.examples_folder))))
        assert [number for job in jobs[-1] for number in range(*job)] == list(range(60))
    assert seen[0] == seen[1]
    assert len(jobs[0]) == 1
    assert max(sum(map(len, contexts[first : stop - 1])) for first, stop in jobs[1]) < 900


def test_any_number_of_processes_finds_the_same_faults_in_the_same_order(tmp_path, small_chunks) -> None:
    write_json(tmp_path / "rows.json", bad_rows())
    lines = b"".join(json.dumps(row).encode() + b"\n" for row in bad_rows()[:40])
    noise = random.Random(0).randbytes(1 << 20).hex().encode()
    (tmp_path / "broken.jsonl.gz").write_bytes(gzip.compress(lines + b"\xff\xfe\n" + noise)[:-200_000])
    found: dict[str, list[list[str]]] = {}
    for name in ("rows.json", "broken.jsonl.gz"):
        for workers in (1, 3):
            made = split(tmp_path, source=str(tmp_path / name), on_bad_rows="error", workers=workers)
            with pytest.raises(InputError) as caught:
                made.prepare()
            found.setdefault(name, []).append(caught.value.problems)
        assert found[name][0] == found[name][1]
        with pytest.raises(InputError) as one_by_one:
            list(read_examples(read_rows(str(tmp_path / name), "validation"), "error"))
        assert found[name][0][1:] == one_by_one.value.problems[1:]
    assert len(found["broken.jsonl.gz"][0]) == 10  # where the file breaks off, and the problems before
    assert len(found["rows.json"][0]) == 12  # a line that says how many, and the problems


def test_cells_that_cannot_be_sent_to_another_process_are_told_all_the_same(tmp_path, small_chunks) -> None:
    rows = make_rows(30)
    rows[9] |= {"question": (letter for letter in "Who?")}
    source = given_source("validation", rows)
    with pytest.raises(InputError, match="question is <generator") as caught:
        split(tmp_path, source=source, on_bad_rows="error", workers=2).prepare()
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize("where", ["qa_lightning.data.chunks.check_row", "qa_lightning.features.windows.gold_tokens"])
def test_a_process_that_is_killed_is_one_error_and_leaves_nothing(tmp_path, small_chunks, monkeypatch, where) -> None:
    """Also while it sends a result that is larger than a pipe holds."""
    write_json(tmp_path / "rows.json", make_rows(60))
    parent = os.getpid()

    def killed(*_: object) -> None:
        assert os.getpid() != parent
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(where, killed)
    with pytest.raises(InputError) as caught:
        split(tmp_path, workers=2).prepare()
    what = "--data.prepare_workers: a process that prepares data ended of SIGKILL"
    assert caught.value.problems == [f"{what}; the system ends processes so when memory runs out"]
    assert not multiprocessing.active_children()
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.name.endswith(".part")]


def test_few_rows_start_no_process(tmp_path, monkeypatch) -> None:
    def none(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr("qa_lightning.workers.Worker", none)
    assert split(tmp_path, workers=8).prepare()
