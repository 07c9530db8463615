"""The command that serves the page to ask in: its flags, and its start and end as a process."""

from __future__ import annotations

import re
import signal
import subprocess
import sys

import httpx
import pytest

from qa_lightning.cli.pages.demo import demo
from qa_lightning.errors import InputError
from qa_lightning.pages.demo.server import bound_socket
from tests.helpers.paths import ROOT
from tests.helpers.processes import Started, environment


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (("--port", "70000"), "--port: 70000 is no port; pass 1 to 65535, or 0 for one that is free"),
        (("--port", "x"), "--port: x is not a whole number"),
        (("--root_url", "example.org"), "--root_url: example.org is no address"),
        (("--max_seconds", "0"), "--max_seconds is 0; pass a number above 0"),
        (("--max_characters", "0"), "--max_characters: 0 is less than 1"),
        (("--max_chars", "1"), "there is no flag --max_chars; did you mean --max_characters?"),
    ],
)
def test_flags_that_cannot_be(capsys, flags, line) -> None:
    with pytest.raises(SystemExit) as ended:
        demo(["--model", "x", *flags])
    assert ended.value.code == 2
    assert line in capsys.readouterr().err


def test_a_port_in_use_is_said_before_the_model_is_loaded() -> None:
    with bound_socket("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        with pytest.raises(InputError, match=rf"--port {port} is in use"):
            demo(["--model", "no such model", "--port", port])


def test_without_gradio_one_line_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(InputError, match=r'demo needs the package gradio .*; run pip install "qa-lightning\[demo\]"'):
        demo(["--model", "no such model"])


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_it_says_where_it_is_and_ends_without_its_files(model_folder, tmp_path, number, status) -> None:
    """Also while a page is open, whose connection would stay."""
    words = [ROOT / "scripts" / "demo.py", "--model", model_folder, "--port", "0"]
    given = environment() | {"TMPDIR": str(tmp_path)}
    process = Started(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=given)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.fullmatch(r"ask here: (http://127\.0\.0\.1:\d+)  \(Ctrl-C ends it\)\n", line)
        assert found, line + process.stdout.read()
        assert len(list(tmp_path.glob("qa_lightning_demo_*"))) == 1
        with httpx.stream("GET", f"{found[1]}/gradio_api/heartbeat/one") as stream:
            assert stream.status_code == 200
            process.send_signal(number)
            assert process.wait(timeout=60) == status
        assert process.stdout.read() == ("stopped\n" if number == signal.SIGINT else "")
        assert not list(tmp_path.glob("qa_lightning_demo_*"))
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
