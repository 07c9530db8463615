"""The study that processes share: who works on which trial, what is sampled, what is pruned, what survives."""

from __future__ import annotations

import json
import multiprocessing
import os

import pytest

from qa_lightning.errors import InputError
from qa_lightning.sweep import study
from qa_lightning.sweep.space import Choices, Range, flag_words
from qa_lightning.sweep.study import Trials, claim, used

pytest.importorskip("optuna")

SPACE = {"model.learning_rate": Range(1e-5, 1e-3, log=True), "data.batch_size": Choices((8, 16, 32))}


def objective(values) -> float:
    """Highest at a learning rate of 1e-4 and a batch of 16."""
    return 90 - 1e5 * abs(values["model.learning_rate"] - 1e-4) - abs(values["data.batch_size"] - 16)


def search(trials: Trials, wanted: int) -> list[dict]:
    """Run trials that take no time; returns their values."""
    found = []
    while (trial := trials.next(SPACE, wanted, set())) is not None:
        found.append(trial.values)
        trials.complete(trial, objective(trial.values))
    return found


def test_a_search_is_decided_by_its_seed_and_not_by_stops(tmp_path) -> None:
    folders = [tmp_path / name for name in ("whole", "stopped", "other")]
    for folder in folders:
        folder.mkdir()
    whole = search(Trials(folders[0], seed=7), 14)
    stopped = search(Trials(folders[1], seed=7), 5) + search(Trials(folders[1], seed=7), 14)
    assert whole == stopped
    assert len({json.dumps(values) for values in whole[:5]}) == 5
    assert search(Trials(folders[2], seed=8), 5) != whole[:5]


def test_numbers_of_two_types_stay_two_values(tmp_path) -> None:
    trials = Trials(tmp_path)
    space = {"trainer.limit_train_batches": Choices((1, 1.0, None))}
    found = [flag_words(trials.next(space, 20, set(range(number))).values) for number in range(20)]
    assert {word for words in found for word in words} == {
        f"--trainer.limit_train_batches={one}" for one in (1, 1.0, "null")
    }
    noted = [flag_words(used(frozen.params, frozen.distributions)) for frozen in Trials(tmp_path).all]
    assert noted == found  # Optuna notes the first of equal values


def work(folder, barrier, queue) -> None:
    trials = Trials(folder)
    barrier.wait()
    while (trial := trials.next(SPACE, 12, set())) is not None:
        queue.put((os.getpid(), trial.number))
        trials.complete(trial, 1.0)


def test_processes_on_one_study_share_its_trials_and_never_run_the_same(tmp_path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(3), context.Queue()
    processes = [context.Process(target=work, args=(tmp_path, barrier, queue)) for _ in range(3)]
    for process in processes:
        process.start()
    ran = [queue.get(timeout=60) for _ in range(12)]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert sorted(number for _, number in ran) == list(range(12))
    assert [frozen.state.name for frozen in Trials(tmp_path).all] == ["COMPLETE"] * 12


def hold(folder, taken, over) -> None:
    taken.send(Trials(folder).next(SPACE, 1, set()).values)
    over.wait()


def test_a_trial_is_taken_over_when_its_process_is_gone_and_not_before(tmp_path) -> None:
    context = multiprocessing.get_context("fork")
    receive, taken = context.Pipe(duplex=False)
    over = context.Event()
    process = context.Process(target=hold, args=(tmp_path, taken, over))
    process.start()
    values = receive.recv()
    trials = Trials(tmp_path)
    assert trials.next(SPACE, 1, set()) is None
    assert trials.unfinished
    process.kill()
    process.join()
    trial = trials.next(SPACE, 1, set())
    assert trial is not None
    assert (trial.number, trial.values) == (0, values)


def test_a_trial_that_ends_while_another_process_looks_for_one_is_not_run_again(tmp_path, monkeypatch) -> None:
    theirs = Trials(tmp_path)
    trial = theirs.next(SPACE, 2, set())
    assert trial is not None

    def end_first(folder):
        if trial.claim.handle is not None:
            theirs.complete(trial, 1.0)
        return claim(folder)

    monkeypatch.setattr(study, "claim", end_first)
    found = Trials(tmp_path).next(SPACE, 2, set())
    assert found is not None
    assert found.number == 1
    assert not (tmp_path / "trial-0" / "owner.json").exists()


def test_a_process_of_another_machine_is_gone_when_it_is_silent(tmp_path) -> None:
    folder = tmp_path / "trial-0"
    folder.mkdir()
    (folder / "owner.json").write_text(json.dumps({"host": "another", "process": 1}))
    assert claim(folder) is None
    then = (folder / "owner.json").stat().st_mtime - study.SILENT - 1
    os.utime(folder / "owner.json", (then, then))
    claimed = claim(folder)
    assert claimed is not None
    before = (folder / "owner.json").stat().st_mtime
    os.utime(folder / "owner.json", (then, then))
    claimed.beat()
    assert (folder / "owner.json").stat().st_mtime >= before
    claimed.release()
    assert not (folder / "owner.json").exists()


def test_without_locks_a_living_process_of_this_machine_keeps_its_trial(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(study, "hold_folder", lambda folder: None)
    first = claim(tmp_path / "trial-0")
    assert first is not None
    assert claim(tmp_path / "trial-0") is None
    monkeypatch.setattr(study, "lives", lambda process: False)
    assert claim(tmp_path / "trial-0") is not None


@pytest.mark.parametrize(("pruner", "pruned"), [("median", {5, 7}), ("halving", {1, 2, 3, 5, 7}), ("none", set())])
def test_trials_that_stay_behind_are_pruned(tmp_path, pruner, pruned) -> None:
    trials = Trials(tmp_path, pruner)
    levels = [50, 40, 30, 20, 60, 10, 70, 5]
    found = set()
    for number, level in enumerate(levels):
        trial = trials.next(SPACE, len(levels), set())
        assert trial is not None
        for step in (10, 20):
            validation, prune = Trials(tmp_path, pruner).prunes(number, step, level + step / 10)
            assert validation == step / 10
            if prune:
                found.add(number)
                trials.pruned(trial)
                break
        else:
            trials.complete(trial, level + 2)
    assert found == pruned
    assert {frozen.number for frozen in trials.all if frozen.state.name == "PRUNED"} == pruned


def test_a_validation_that_is_repeated_after_a_stop_is_no_further_one(tmp_path) -> None:
    trials = Trials(tmp_path)
    assert trials.next(SPACE, 1, set()) is not None
    assert [trials.prunes(0, step, 1.0)[0] for step in (5, 10, 10, 5, 15)] == [1, 2, 2, 1, 3]
    assert len(trials.all[0].intermediate_values) == 3


def test_half_a_line_at_the_end_of_the_journal_is_cut_off(tmp_path) -> None:
    values = search(Trials(tmp_path), 2)
    journal = tmp_path / "trials.log"
    with journal.open("ab") as file:
        file.write(b'{"op_code": 4, "wor')
    assert len(Trials(tmp_path).all) == 2
    assert search(Trials(tmp_path), 3) != values[:1]
    assert len(Trials(tmp_path).all) == 3


def test_a_journal_that_is_none_is_one_error(tmp_path) -> None:
    (tmp_path / "trials.log").write_text("not\na\njournal\n")
    with pytest.raises(InputError, match=r"trials.log cannot be read .*name another folder with --study"):
        Trials(tmp_path)


def test_values_of_ranges_have_four_digits_within_their_ends_and_those_of_lists_stay() -> None:
    kinds = pytest.importorskip("optuna").distributions
    sampled = {"a": 0.00013989345882427963, "b": 16, "c": None, "d": 0.99995, "e": 0.123456}
    ranges = {"a": kinds.FloatDistribution(1e-5, 1e-3, log=True), "b": kinds.IntDistribution(8, 32)}
    ranges |= {"c": kinds.CategoricalDistribution([None, 1]), "d": kinds.CategoricalDistribution([0.999, 0.99995])}
    ranges |= {"e": kinds.FloatDistribution(0.1, 0.123456)}
    assert used(sampled, ranges) == {"a": 0.0001399, "b": 16, "c": None, "d": 0.99995, "e": 0.123456}
