"""Train on two hosts, and let one of them differ, fail, die or be cut off; say what happens, and how fast.

python tests/helpers/two_hosts.py [SCENARIO ...]

The hosts are network namespaces of this machine (see `namespaces`, which takes root and `ip`); the command is that of
docs/scaling.md. Prints a line for each scenario, and with --show what the hosts said. Exits with status 1 unless all is
as it should be.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path.insert(0, str(Path(__file__).parents[2]))  # so that `tests` can be imported

from qa_lightning.layout import LAST_CHECKPOINT, LOGS, RECORD
from tests.helpers.data import make_rows, write_json
from tests.helpers.kill_and_resume import differences, make_model
from tests.helpers.namespaces import Host, documented_command, missing, slurm_environment, two_hosts

PATIENCE = 120.0  # seconds; who has not ended by then is said to wait for ever
RUN = f"{LOGS}/version_0"


class Scene:
    """Two hosts with the same small data, and what happens on them.

    Args:
        one, two: the hosts.
        folder: for what they share.
        devices: processes on each.
    """

    def __init__(self, one: Host, two: Host, folder: Path, devices: int = 1) -> None:
        self.hosts, self.shared, self.devices = (one, two), folder / "shared", devices
        self.model = make_model(folder / "untrained")
        self.shared.mkdir()
        for host in self.hosts:
            write_json(host.work / "train.json", make_rows(400, unanswerable=20, long=6))
            write_json(host.work / "validation.json", make_rows(100, long=4))
        self.processes: list[subprocess.Popen[str]] = []
        self.begun = 0.0

    def flags(self) -> list[str]:
        """Of a run of some seconds with checkpoints within its epochs."""
        return [
            *("--data.dataset", "train.json", "--data.validation", "validation.json"),
            *("--model.model_name", self.model, "--model.learning_rate", "1e-3"),
            *("--data.max_length", "48", "--data.doc_stride", "12", "--data.max_question_length", "12"),
            *("--data.batch_size", str(8 // 2 // self.devices), "--trainer.accelerator", "cpu"),
            *("--trainer.max_epochs", "3", "--trainer.log_every_n_steps", "4", "--save_every_minutes", "0.004"),
        ]

    def start(self, *more: str, on_second: tuple[str, ...] = (), launcher: tuple[str, ...] = (), **second: str) -> None:
        """Start the same command on both.

        Args:
            more: flags of both.
            on_second: flags of the second host alone.
            launcher: options of torchrun.
            second: environment of the second host alone.
        """
        program, *words = documented_command("torchrun", self.devices)
        words = [program, *launcher, *words, *self.flags(), *more]
        self.begun = time.monotonic()
        self.processes = [self.hosts[0].start(words), self.hosts[1].start([*words, *on_second], **second)]

    def start_as_slurm(self, *more: str) -> None:
        """Start the command on both as ``srun`` does."""
        words = [*documented_command("srun", 1), *self.flags(), *more]
        self.begun = time.monotonic()
        self.processes = [host.start(words, **slurm_environment(number)) for number, host in enumerate(self.hosts)]

    def end(self) -> list[tuple[int | None, float]]:
        """Wait for both; status and seconds of each, None for one that waits for ever."""
        deadline = time.monotonic() + PATIENCE
        ended: list[tuple[int | None, float] | None] = [None, None]
        while None in ended and time.monotonic() < deadline:
            for number, process in enumerate(self.processes):
                if ended[number] is None and process.poll() is not None:
                    ended[number] = (process.returncode, time.monotonic() - self.begun)
            time.sleep(0.05)
        for host, process in zip(self.hosts, self.processes, strict=True):
            host.kill()
            process.wait()
        return [one or (None, PATIENCE) for one in ended]

    def await_training(self, root: Path | None = None) -> None:
        """Return once there is a checkpoint, and count the time from now on."""
        while not ((root or self.hosts[0].work) / RUN / LAST_CHECKPOINT).is_file():
            assert all(process.poll() is None for process in self.processes), self.said()
            time.sleep(0.02)
        self.begun = time.monotonic()

    def said(self) -> str:
        return "\n".join(f"--- {host.name}\n{host.said()}" for host in self.hosts)

    def errors(self) -> list[list[str]]:
        """The lines of each host that say why it ended."""
        found = r"^(?:error: .*|stopped by .*)$"
        return [re.findall(found, host.said(), re.MULTILINE) for host in self.hosts]


Verdict = tuple[bool, str]
SCENARIOS: dict[str, Callable[[Scene], Verdict]] = {}


def scenario(function: Callable[[Scene], Verdict]) -> Callable[[Scene], Verdict]:
    SCENARIOS[function.__name__.replace("_", "-")] = function
    return function


def times(ended: list[tuple[int | None, float]]) -> str:
    said = (
        "waits for ever" if status is None else f"status {status} after {seconds:.1f} s" for status, seconds in ended
    )
    return ", ".join(f"host{number + 1}: {one}" for number, one in enumerate(said))


def _lines(errors: list[list[str]]) -> str:
    return "\n".join(f"    {lines[-1] if lines else '(no error line)'}" for lines in errors)


def refused(scene: Scene, expected: str, seconds: float = 60) -> Verdict:
    """Both hosts end with a line like the expected one, before training."""
    ended = scene.end()
    errors = scene.errors()
    good = all(status not in (None, 0) and took < seconds for status, took in ended)
    good = good and all(
        re.search(expected, host.said()) and lines for host, lines in zip(scene.hosts, errors, strict=True)
    )
    return good, f"{times(ended)}\n{_lines(errors)}"


def finished_alike(scene: Scene, run: Path) -> Verdict:
    """The run ended well, with the scores and weights of one on one host with as many processes."""
    ended = scene.end()
    if any(status != 0 for status, _ in ended):
        return False, f"{times(ended)}\n{scene.errors()}"
    alone = alone_on_one_host(scene)
    found = differences(alone, run)
    scores = [json.loads((one / RECORD).read_text())[-1]["scores"] for one in (alone, run)]
    return not found, f"{times(ended)}; {', '.join(found) or 'equal to one host to the last bit'} {scores[1]}"


def alone_on_one_host(scene: Scene) -> Path:
    """Train on the first host alone with as many processes; returns the run's folder."""
    devices = str(2 * scene.devices)
    words = [sys.executable, "-m", "qa_lightning", "train", *scene.flags(), "--trainer.devices", devices]
    process = scene.hosts[0].start([*words, "--trainer.default_root_dir", "alone"], "said_alone")
    assert process.wait() == 0, (scene.hosts[0].folder / "said_alone").read_text()
    return scene.hosts[0].work / "alone" / RUN


@scenario
def equal_scores(scene: Scene) -> Verdict:
    scene.start()
    return finished_alike(scene, scene.hosts[0].work / RUN)


@scenario
def equal_scores_of_four(scene: Scene) -> Verdict:
    scene.devices = 2
    scene.start()
    return finished_alike(scene, scene.hosts[0].work / RUN)


@scenario
def equal_scores_with_slurm(scene: Scene) -> Verdict:
    scene.start_as_slurm()
    return finished_alike(scene, scene.hosts[0].work / RUN)


@scenario
def first_host_dies_with_slurm(scene: Scene) -> Verdict:
    scene.start_as_slurm("--trainer.max_epochs", "1000")
    return lost(scene, scene.hosts[0].kill, 1, "process 0 on host1 ended without a word.*what is saved is on host1")


@scenario
def no_run_to_resume_with_slurm(scene: Scene) -> Verdict:
    scene.start_as_slurm("--ckpt_path", "last")
    return refused(scene, "--ckpt_path last: there is no run in")


@scenario
def shared_logs(scene: Scene) -> Verdict:
    scene.start("--trainer.default_root_dir", str(scene.shared), "--trainer.max_epochs", "2")
    ended = scene.end()
    if any(status != 0 for status, _ in ended) or "all hosts share" not in scene.hosts[0].said():
        return False, times(ended)
    scene.start("--trainer.default_root_dir", str(scene.shared), "--ckpt_path", "last")
    ended = scene.end()
    return all(status == 0 for status, _ in ended), f"trained, and on from the checkpoint; {times(ended)}"


@scenario
def resume_without_shared_logs(scene: Scene) -> Verdict:
    scene.start()
    scene.await_training()
    for host in scene.hosts:
        host.kill()
    for process in scene.processes:
        process.wait()
    scene.start("--ckpt_path", "last")
    return finished_alike(scene, scene.hosts[0].work / RUN)


@scenario
def no_run_to_resume(scene: Scene) -> Verdict:
    scene.start("--ckpt_path", "last")
    return refused(scene, "--ckpt_path last: there is no run in")


@scenario
def other_data(scene: Scene) -> Verdict:
    write_json(scene.hosts[1].work / "train.json", make_rows(360, unanswerable=20, long=6))
    scene.start()
    return refused(scene, "the training data: 400 questions .* on host1, 360 questions .* on host2; give all hosts")


@scenario
def missing_data(scene: Scene) -> Verdict:
    (scene.hosts[1].work / "train.json").unlink()
    scene.start()
    return refused(scene, "train.json.*no such file")


@scenario
def a_bad_row(scene: Scene) -> Verdict:
    write_json(scene.hosts[1].work / "train.json", [*make_rows(399), make_rows(1)[0] | {"question": " ", "id": "bad"}])
    scene.start()
    return refused(scene, "question is empty")


@scenario
def other_flags(scene: Scene) -> Verdict:
    scene.start(on_second=("--model.learning_rate", "2e-3"))
    return refused(scene, "--model.learning_rate: 0.001 on host1, 0.002 on host2; start all hosts with the same flags")


@scenario
def a_wrong_flag(scene: Scene) -> Verdict:
    scene.start(on_second=("--data.batch_size", "0"))
    return refused(scene, "--data.batch_size is 0")


@scenario
def other_versions(scene: Scene) -> Verdict:
    other = scene.shared / "other" / "transformers-9.9.9.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: transformers\nVersion: 9.9.9\n")
    path = f"{other.parent}{os.pathsep}{scene.hosts[1].environment()['PYTHONPATH']}"
    scene.start(PYTHONPATH=path)
    return refused(scene, r"transformers: \S+ on host1, 9.9.9 on host2; install the same versions")


def lost(scene: Scene, end: Callable[[], None], survivor: int, expected: str) -> Verdict:
    """A host is gone in the middle of training: the other one says so, within a minute."""
    scene.await_training()
    end()
    ended = scene.end()
    status, seconds = ended[survivor]
    errors = scene.errors()[survivor]
    good = status not in (None, 0) and seconds < 60 and any(re.search(expected, line) for line in errors)
    return good, f"{times(ended)}\n    {errors[-1] if errors else '(no error line)'}"


@scenario
def second_host_dies(scene: Scene) -> Verdict:
    scene.start("--trainer.max_epochs", "1000")
    return lost(scene, scene.hosts[1].kill, 0, "process 1 on host2 ended without a word.*is saved in")


@scenario
def first_host_dies(scene: Scene) -> Verdict:
    scene.start("--trainer.max_epochs", "1000")
    return lost(scene, scene.hosts[0].kill, 1, "process 0 on host1 ended without a word.*what is saved is on host1")


@scenario
def cable_is_pulled(scene: Scene) -> Verdict:
    scene.start("--trainer.max_epochs", "1000")
    scene.await_training()
    scene.hosts[1].pull_cable()
    said: list[float] = []
    while len(said) < 2 and time.monotonic() < scene.begun + PATIENCE:
        trains = [worker(host) is not None for host in scene.hosts]
        said += [time.monotonic() - scene.begun] * (trains.count(False) - len(said))
        time.sleep(0.2)
    for host in scene.hosts:
        host.kill()  # torchrun on the second waits for the first, until the system gives up after a quarter of an hour
    errors = scene.errors()
    good = len(said) == 2 and said[1] < 60 and all(any("does not answer" in line for line in lines) for lines in errors)
    return good, f"training ends after {', '.join(f'{one:.1f}' for one in said)} s\n{_lines(errors)}"


def worker(host: Host) -> int | None:
    """The id of the process that trains on a host."""
    for process in host.processes():
        with suppress(FileNotFoundError, ProcessLookupError):
            words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
            if b"qa_lightning" in words and b"--nnodes" not in words:
                return process
    return None


def restarted(scene: Scene, number: int) -> Verdict:
    """A process is killed, torchrun starts all again, and the run ends as one that was not disturbed."""
    scene.start(launcher=("--max-restarts", "1"))
    scene.await_training()
    time.sleep(0.5)
    trains = worker(scene.hosts[number])
    assert trains is not None, scene.said()
    os.kill(trains, signal.SIGKILL)
    good, what = finished_alike(scene, scene.hosts[0].work / RUN)
    runs = sorted(path.name for path in (scene.hosts[0].work / LOGS).iterdir())
    starts = json.loads((scene.hosts[0].work / RUN / RECORD).read_text())
    resumed = [str(start["resumed_from"] and Path(start["resumed_from"]).name) for start in starts]
    return good and runs == ["version_0"] and resumed == ["None", "last.ckpt"], f"{what}; {runs}, began at {resumed}"


@scenario
def restart_after_the_second_dies(scene: Scene) -> Verdict:
    return restarted(scene, 1)


@scenario
def restart_after_the_first_dies(scene: Scene) -> Verdict:
    return restarted(scene, 0)


@contextmanager
def scene_of() -> Iterator[Scene]:
    with tempfile.TemporaryDirectory() as name, two_hosts(Path(name)) as (one, two):
        yield Scene(one, two, Path(name))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join(SCENARIOS)}; all by default")
    parser.add_argument("--show", action="store_true", help="print what the hosts said")
    options = parser.parse_args()
    if problem := missing():
        print(f"two hosts on one machine: {problem}", file=sys.stderr)
        return 2
    for noisy in ("tensorboard", "qa_lightning"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    bad = 0
    for name in options.scenarios or SCENARIOS:
        with scene_of() as scene:
            good, what = SCENARIOS[name](scene)
            bad += not good
            print(f"{'good' if good else 'BAD '} {name}: {what}", flush=True)
            if options.show:
                print(scene.said(), flush=True)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
