"""Two hosts train as one does, and neither waits for ever; `tests/helpers/two_hosts.py` has more, under torchrun."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qa_lightning.layout import LAST_CHECKPOINT, LOGS, RECORD
from tests.helpers.data import make_rows, write_json
from tests.helpers.kill_and_resume import differences
from tests.helpers.namespaces import Host, missing, two_hosts
from tests.helpers.processes import TRAIN, Started, finished, short_run

pytestmark = pytest.mark.slow
RUN = f"{LOGS}/version_0"


@pytest.fixture
def hosts(tmp_path) -> Iterator[tuple[Host, Host]]:
    """Two hosts with the same data, and nothing else in common."""
    if problem := missing():
        pytest.skip(problem)
    with two_hosts(tmp_path) as both:
        for host in both:
            write_json(host.work / "train.json", make_rows(40))
        yield both


@pytest.fixture
def flags(model_folder) -> list[str]:
    return short_run(Path(), model_folder, "train.json", "--save_every_minutes", "0", "--data.batch_size", "4")


def ended(processes: list[Started]) -> list[tuple[int, str]]:
    """Status and output of each."""
    found = []
    for process in processes:
        said, _ = process.communicate(timeout=100)
        found.append((process.wait(), said or ""))
    return found


def errors(said: str) -> list[str]:
    return re.findall("^error: (.*)$", said, re.MULTILINE)


def test_two_hosts_without_a_common_folder_train_as_one(hosts, flags, tmp_path) -> None:
    (first, said), (second, other) = ended([host.forked([*flags, "--trainer.num_nodes", "2"]) for host in hosts])
    assert (first, second) == (0, 0), said + other
    assert (
        "lightning_logs is not shared: checkpoints, records and the model are only on host1, which sends host2" in said
    )
    assert not (hosts[1].work / LOGS).exists()
    assert "data: prepared together with host2" in said
    assert "data: helping host1 to prepare it" in other
    assert f"the prepared files came from host1, as {hosts[1].folder / 'cache'} is not shared" in other
    alone = finished(
        [TRAIN, *flags, "--trainer.devices", "2", "--trainer.default_root_dir", tmp_path], cwd=hosts[0].work
    )
    assert alone.returncode == 0, alone.stderr
    files = {path.relative_to(hosts[1].folder) for path in (hosts[1].folder / "cache").rglob("*.*")}
    assert len(files) > 20
    for path in (path for path in files if path.suffix != ".lock"):
        assert (hosts[1].folder / path).read_bytes() == (hosts[0].folder / path).read_bytes()
    assert differences(tmp_path / RUN, hosts[0].work / RUN) == []  # weights, curves and scores, to the last bit


def test_other_data_is_refused_on_both_hosts_and_leaves_no_run(hosts, flags) -> None:
    write_json(hosts[1].work / "train.json", make_rows(36))
    both = ended([host.forked([*flags, "--trainer.num_nodes", "2"]) for host in hosts])
    for status, said in both:
        assert status == 2, said
        for line, split in zip(errors(said) + said.splitlines()[-1:], ("training", "validation"), strict=True):
            assert re.search(
                rf"the {split} data: 40 questions in 40 windows \(fingerprint \w+\) on host1, "
                r"36 questions in 36 windows \(fingerprint \w+\) on host2; give all hosts the same data$",
                line,
            )
    assert not list((hosts[0].work / LOGS).glob("*"))


def test_a_host_that_dies_ends_the_other_which_says_what_is_saved(hosts, flags) -> None:
    processes = [host.forked([*flags, "--trainer.num_nodes", "2", "--trainer.max_epochs", "500"]) for host in hosts]
    while not (hosts[0].work / RUN / LAST_CHECKPOINT).is_file():
        assert all(process.poll() is None for process in processes)
        time.sleep(0.05)
    begun = time.monotonic()
    hosts[1].kill()
    (status, said), _ = ended(processes)
    assert status == 1, said
    assert time.monotonic() - begun < 60
    (line,) = errors(said)
    assert line.startswith("process 1 on host2 ended without a word: killed, or out of memory; step ")
    assert line.endswith(
        "is saved in lightning_logs/version_0/checkpoints/last.ckpt; resume with the same flags and --ckpt_path last"
    )
    (start,) = json.loads((hosts[0].work / RUN / RECORD).read_text())
    assert "finished" not in start
