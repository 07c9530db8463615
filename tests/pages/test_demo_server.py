"""The server of the page to ask in: what it refuses, what it sends along, and how it starts and ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import httpx
import pytest

from qa_lightning.errors import InputError
from qa_lightning.pages.demo.limits import Limits
from qa_lightning.pages.demo.page import shown_name
from qa_lightning.pages.demo.server import Guarded, address_of, bound_socket, hosts_of, report_beside
from tests.helpers.pages import served, steered_asker

LIMITS = Limits(characters=1000, file_mb=1, files=2)


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with served(steered_asker(LIMITS)) as address, httpx.Client(base_url=address) as found:
        yield found


def test_the_browser_is_told_to_ask_nobody_else(client) -> None:
    answer = client.get("/")
    assert answer.status_code == 200
    rules = dict(rule.split(" ", 1) for rule in answer.headers["content-security-policy"].split("; "))
    assert rules["default-src"] == rules["connect-src"] == rules["base-uri"] == "'self'"
    assert "http" not in answer.headers["content-security-policy"]
    assert "fonts.g" not in answer.text + client.get("/theme.css").text


def test_only_the_names_of_this_machine_are_served(client) -> None:
    """A page elsewhere could otherwise read this one by a name that leads to the loopback address."""
    for name in ("127.0.0.1", "localhost:7860", "[::1]:80"):
        assert client.get("/", headers={"host": name}).status_code == 200
    for name in ("evil.example", "127.0.0.1.evil.example", "", "["):
        assert client.get("/", headers={"host": name}).status_code == 403
    assert hosts_of("0.0.0.0", None) == set()
    assert "qa.example.org" in hosts_of("127.0.0.1", "https://qa.example.org/ask")


def test_a_request_has_a_size(client) -> None:
    assert client.post("/gradio_api/queue/join", content=b"x" * (LIMITS.body + 1)).status_code == 413


def test_a_request_of_unknown_size_ends_at_the_limit() -> None:
    """As if the browser had hung up: the page never gets more."""
    got: list = []

    async def app(scope, receive, send) -> None:
        while (message := await receive())["type"] == "http.request":
            got.append(len(message["body"]))
        got.append(message["type"])

    async def receive() -> dict:
        assert len(got) < 5
        return {"type": "http.request", "body": b"x" * 40, "more_body": True}

    async def send(message) -> None:
        raise AssertionError(message)

    scope = {"type": "http", "headers": [(b"host", b"localhost")]}
    asyncio.run(Guarded(app, 100, {"localhost"})(scope, receive, send))
    assert got == [40, 40, "http.disconnect"]


def test_a_file_has_a_size(client) -> None:
    answer = client.post("/gradio_api/upload", files={"files": ("a.txt", b"x" * 1_000_001)})
    assert answer.status_code == 413


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json", "/gradio_api/file=/etc/hostname", "/report.html"])
def test_nothing_else_is_served(client, path) -> None:
    assert client.get(path).status_code in (403, 404)


@pytest.mark.parametrize("where", [1, 2, 3])
def test_a_call_cannot_make_the_server_ask_elsewhere(client, monkeypatch, where) -> None:
    """Gradio fetches what the path of a "file" names, in any argument of a call."""
    fetched = []

    async def fetch(address: str, **_) -> str:
        fetched.append(address)
        raise OSError

    monkeypatch.setattr("gradio.processing_utils.async_ssrf_protected_download", fetch)
    file = {"path": "http://192.0.2.1/x.txt", "meta": {"_type": "gradio.FileData"}}
    data: list = [None, "Who?", "Ben.", None, 0]
    data[where] = [file] if where == 3 else file
    config = client.get("/config").json()
    asked = next(one for one in config["dependencies"] if len(one["inputs"]) == len(data))
    call = {"data": data, "fn_index": asked["id"], "session_hash": f"session {where}"}
    assert client.post("/gradio_api/queue/join", json=call).status_code == 200
    with client.stream("GET", f"/gradio_api/queue/data?session_hash=session {where}", timeout=20) as stream:
        last = next(json.loads(line[6:]) for line in stream.iter_lines() if "process_completed" in line)
    assert last["success"] is False
    assert fetched == []


def test_calls_are_for_the_page_alone(client) -> None:
    """No call has a name for other programs, and none passes by the queue."""
    assert client.get("/gradio_api/info").json() == {"named_endpoints": {}, "unnamed_endpoints": {}}
    assert client.post("/gradio_api/run/predict", json={"data": [], "fn_index": 0}).status_code >= 400


def test_an_address_that_is_not_to_be_had_is_one_line() -> None:
    with bound_socket("127.0.0.1", 0) as taken:
        number = taken.getsockname()[1]
        assert address_of(taken, "127.0.0.1") == f"http://127.0.0.1:{number}"
        assert address_of(taken, "0.0.0.0") == f"http://127.0.0.1:{number}"
        with pytest.raises(InputError, match=rf"^--port {number} is in use on 127\.0\.0\.1; pass another one, or 0"):
            bound_socket("127.0.0.1", number)
    with pytest.raises(InputError, match=r"^--host 192\.0\.2\.1: not an address of this machine"):
        bound_socket("192.0.2.1", 0)
    for name in ("nowhere.invalid", "a..b", "a" * 64):
        with pytest.raises(InputError, match=rf"^--host {name}: no address of this machine \(.*\)$"):
            bound_socket(name, 0)


def test_a_model_is_named_without_its_folder(tmp_path) -> None:
    model = tmp_path / "version_3" / "model"
    model.mkdir(parents=True)
    assert shown_name(str(model)) == "version_3"
    assert shown_name(str(model.parent)) == "version_3"
    assert shown_name("deepset/roberta-base-squad2") == "deepset/roberta-base-squad2"


def test_the_report_is_that_of_the_run_alone(tmp_path, monkeypatch) -> None:
    """What lies beside a model of another name, or beside the place of a name on the Hub, is somebody's own."""
    (tmp_path / "report.html").write_text("")
    for name in ("model", "my-model", "owner"):
        (tmp_path / name).mkdir()
    assert report_beside(str(tmp_path / "model")) == tmp_path / "report.html"
    assert report_beside(str(tmp_path / "my-model")) is None
    monkeypatch.chdir(tmp_path)
    assert report_beside("model") == tmp_path / "report.html"
    assert report_beside("bert-base-cased") is None
    (tmp_path / "owner" / "report.html").write_text("")
    assert report_beside("owner/model") is None
