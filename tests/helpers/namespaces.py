"""Two hosts on one machine: a network namespace each, with a cable between them that can be pulled.

Each host has its own name, address, home, cache and working folder. It takes root, and `ip` of iproute2.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.helpers.paths import ROOT
from tests.helpers.processes import Started

IN_NAMESPACE = ROOT / "tests" / "helpers" / "in_namespace.py"
NAMES = ("host1", "host2")
# In a namespace's own view of the files: its own name, and the names of both.
_BECOME = 'mount --bind "$1" /etc/hosts && hostname "$2" && shift 2 && exec "$@"'


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@cache
def missing() -> str | None:
    """Why there can be no namespaces here; None if there can."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "needs Linux and root"
    lacks = [name for name in ("ip", "unshare", "mount", "hostname") if shutil.which(name) is None]
    if lacks:
        return f"needs {', '.join(lacks)}"
    name = f"qa{os.getpid()}t"
    try:
        _ip("netns", "add", name)
        subprocess.run(["ip", "netns", "exec", name, "unshare", "--uts", "true"], check=True, capture_output=True)
        _ip("link", "add", f"{name}0", "type", "veth", "peer", "name", f"{name}1")
        _ip("link", "del", f"{name}0")
    except subprocess.CalledProcessError as error:
        return f"no network namespaces here: {error.stderr.decode(errors='replace').strip()}"
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
    return None


@dataclass
class Host:
    """One of the two.

    Attributes:
        name: ``host1`` or ``host2``, by which the other one finds it.
        namespace: the name that `ip` knows.
        folder: holds its home, its cache and ``work``, its working folder.
        first_address: of the first one.
    """

    name: str
    namespace: str
    folder: Path
    first_address: str

    @property
    def work(self) -> Path:
        return self.folder / "work"

    def environment(self) -> dict[str, str]:
        """This checkout's code, one thread a process, no network beyond the other host."""
        kept = {
            name: value for name, value in os.environ.items() if name not in ("GLOO_SOCKET_IFNAME", "XDG_CACHE_HOME")
        }
        own = {"HOME": str(self.folder / "home"), "QA_LIGHTNING_CACHE": str(self.folder / "cache")}
        quiet = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        return kept | own | quiet | {"PYTHONPATH": str(ROOT)}

    def start(self, words: Sequence[str], said: str = "said", **environment: str) -> subprocess.Popen[str]:
        """Start a command in its working folder and in a process group of its own.

        Args:
            words: the command.
            said: the file in its folder to which its output goes.
            environment: besides its own.
        """
        become = ["ip", "netns", "exec", self.namespace, "unshare", "--uts", "sh", "-c", _BECOME, "sh"]
        become += [str(self.folder.parent / "hosts"), self.name]
        with (self.folder / said).open("w") as output:
            return subprocess.Popen(
                [*become, *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                cwd=self.work,
                env=self.environment() | environment,
                start_new_session=True,
            )

    def forked(self, flags: Sequence[str]) -> Started:
        """Start training in a process that is forked, as torchrun would start it, but without torchrun."""
        number = NAMES.index(self.name)
        own = {"RANK": number, "GROUP_RANK": number, "LOCAL_RANK": 0, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 1}
        meeting = {"TORCHELASTIC_RUN_ID": "none", "MASTER_ADDR": self.first_address, "MASTER_PORT": 29500}
        environment = {name: str(value) for name, value in (own | meeting).items()}
        return Started(
            [IN_NAMESPACE, self.namespace, self.name, "--", *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self.environment() | environment | {"GLOO_SOCKET_IFNAME": "eth0"},
            cwd=self.work,
            start_new_session=True,
        )

    def said(self) -> str:
        """What its last command has printed so far."""
        return (self.folder / "said").read_text(errors="replace")

    def pull_cable(self, pulled: bool = True) -> None:
        """Cut it off from the other one, without a word to either; or put the cable back."""
        _ip("-n", self.namespace, "link", "set", "eth0", "down" if pulled else "up")

    def processes(self) -> list[int]:
        """Ids of all that runs on it."""
        ended = subprocess.run(["ip", "netns", "pids", self.namespace], check=False, capture_output=True, text=True)
        return [int(word) for word in ended.stdout.split()]

    def kill(self) -> None:
        """End all that runs on it with SIGKILL."""
        for process in self.processes():
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


@contextmanager
def two_hosts(folder: Path) -> Iterator[tuple[Host, Host]]:
    """Make the two hosts, with folders in ``folder``; all of them is gone at the end, but the folders."""
    number = os.getpid()
    addresses = [f"10.213.{number % 250}.{index + 1}" for index in range(2)]
    hosts = [Host(name, f"qa{number}{name}", folder / name, addresses[0]) for name in NAMES]
    lines = [f"{address} {name}\n" for address, name in zip(addresses, NAMES, strict=True)]
    (folder / "hosts").write_text("127.0.0.1 localhost\n" + "".join(lines))
    try:
        for host in hosts:
            for part in ("home", "work", "cache"):
                (host.folder / part).mkdir(parents=True)
            _ip("netns", "add", host.namespace)
        one, two = (host.namespace for host in hosts)
        _ip("link", "add", "eth0", "netns", one, "type", "veth", "peer", "name", "eth0", "netns", two)
        for host, address in zip(hosts, addresses, strict=True):
            _ip("-n", host.namespace, "addr", "add", f"{address}/24", "dev", "eth0")
            _ip("-n", host.namespace, "link", "set", "lo", "up")
            _ip("-n", host.namespace, "link", "set", "eth0", "up")
        yield hosts[0], hosts[1]
    finally:
        for host in hosts:
            host.kill()
            subprocess.run(["ip", "netns", "del", host.namespace], check=False, capture_output=True)


def documented_command(launcher: str, devices: int) -> list[str]:
    """The command of docs/scaling.md for several machines, with so many processes on each of two.

    Args:
        launcher: ``torchrun``; or ``srun``, and the command is what it starts.
        devices: processes on each host.
    """
    text = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    (line,) = re.findall(rf"^{launcher} .*$", text, re.MULTILINE)
    words = [str(devices) if word == "8" else word for word in line.split()]
    program, *words = words[1:] if launcher == "srun" else words
    return [str(Path(sys.executable).parent / program), *words]


def slurm_environment(number: int) -> dict[str, str]:
    """What ``srun`` sets for the only process on one of the two hosts."""
    job = {"JOB_ID": "4711", "JOB_NAME": "train", "NODELIST": "host[1-2]", "NTASKS": "2", "NTASKS_PER_NODE": "1"}
    step = {"STEP_NUM_TASKS": "2", "PROCID": str(number), "NODEID": str(number), "LOCALID": "0"}
    return {f"SLURM_{name}": value for name, value in (job | step).items()}
