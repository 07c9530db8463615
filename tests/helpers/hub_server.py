"""A Hugging Face Hub on this machine: the endpoints that create a repository and commit to it.

It stores what it receives and checks what the Hub checks: the token, sizes and hashes of large files, that a commit
names only large files that were uploaded, and that its parent is the repository's last commit.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_0123456789secret"
LARGE = (".safetensors", ".onnx", ".data")
_REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
ROUTES = {
    "create": ("POST", r"/api/repos/create"),
    "info": ("GET", rf"/api/models/{_REPO}"),
    "validate": ("POST", r"/api/validate-yaml"),
    "preupload": ("POST", rf"/api/models/{_REPO}/preupload/main"),
    "batch": ("POST", rf"/{_REPO}\.git/info/lfs/objects/batch"),
    "put": ("PUT", r"/storage/(?P<oid>[0-9a-f]{64})"),
    "verify": ("POST", r"/verify"),
    "commit": ("POST", rf"/api/models/{_REPO}/commit/main"),
}


class Refused(Exception):  # noqa: N818 - an answer of the Hub, not an error of this code
    """An HTTP response whose status is not 200.

    Args:
        status: the HTTP status.
        message: sent in the header and in the body, as the Hub does.
        url: of a repository that already exists.
    """

    def __init__(self, status: int, message: str, url: str = "") -> None:
        self.status, self.message, self.url = status, message, url


@dataclass
class Repo:
    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=lambda: ["0" * 40])

    def commit(self) -> str:
        self.commits.append(hashlib.sha1(repr((self.commits, sorted(self.files))).encode()).hexdigest())
        return self.commits[-1]


class Hub:
    """The state of the server, and the requests it received.

    Attributes:
        repos: repositories by name.
        objects: large files by their SHA-256.
        requests: names of `ROUTES`, in the order of the requests.
        before: route name -> function called before the request is answered; it may raise `Refused`.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.before: dict[str, Callable[[], None]] = {}
        self.url = ""

    def create(self, body: bytes) -> dict:
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] != "anna":
            raise Refused(403, "You don't have the rights to create a model under this namespace")
        if name in self.repos:
            raise Refused(409, "You already created this model repo", f"{self.url}/{name}")
        self.repos[name] = Repo(asked.get("visibility") == "private" or asked.get("private", False))
        return {"url": f"{self.url}/{name}"}

    def info(self, body: bytes, repo: str) -> dict:
        if repo not in self.repos:
            raise Refused(404, "Repository not found")
        known = self.repos[repo]
        siblings = [{"rfilename": name} for name in known.files]
        return {"id": repo, "sha": known.commits[-1], "private": known.private, "siblings": siblings, "tags": []}

    def validate(self, body: bytes) -> dict:
        assert json.loads(body)["repoType"] == "model"
        return {"errors": [], "warnings": []}

    def preupload(self, body: bytes, repo: str) -> dict:
        def mode(file: dict) -> dict:
            large = file["path"].endswith(LARGE)
            return {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}

        return {"files": [mode(file) for file in json.loads(body)["files"]]}

    def batch(self, body: bytes, repo: str) -> dict:
        def answer(one: dict) -> dict:
            links = {"upload": f"{self.url}/storage/{one['oid']}", "verify": f"{self.url}/verify"}
            actions = {name: {"href": href} for name, href in links.items()}
            return one if one["oid"] in self.objects else one | {"actions": actions}

        return {"transfer": "basic", "objects": [answer(one) for one in json.loads(body)["objects"]]}

    def put(self, body: bytes, oid: str) -> dict:
        if hashlib.sha256(body).hexdigest() != oid:
            raise Refused(400, "the bytes do not match their hash")
        self.objects[oid] = body
        return {}

    def verify(self, body: bytes) -> dict:
        asked = json.loads(body)
        if len(self.objects.get(asked["oid"], b"")) != asked["size"]:
            raise Refused(400, "the size does not match")
        return {}

    def commit(self, body: bytes, repo: str) -> dict:
        lines = [json.loads(line) for line in body.splitlines()]
        known, header = self.repos[repo], lines[0]["value"]
        if header.get("parentCommit", known.commits[-1]) != known.commits[-1]:
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
        files = dict(known.files)
        for value, key in ((line["value"], line["key"]) for line in lines[1:]):
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                if value["oid"] not in self.objects:
                    raise Refused(400, f"{value['path']} was never uploaded")
                files[value["path"]] = self.objects[value["oid"]]
            else:
                assert key == "deletedFile"
                del files[value["path"]]
        known.files = files
        oid = known.commit()
        return {"success": True, "commitUrl": f"{self.url}/{repo}/commit/{oid}", "commitOid": oid, "hookOutput": ""}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self) -> None:
        body, path = self._body(), self.path.partition("?")[0]
        status, answer, message = 200, {}, ""
        try:
            for name, (method, pattern) in ROUTES.items():
                if method == self.command and (found := re.fullmatch(pattern, path)):
                    self.hub.requests.append(name)
                    self.hub.before.get(name, lambda: None)()
                    if name != "put" and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                        raise Refused(401, "Invalid credentials in Authorization header")
                    answer = getattr(self.hub, name)(body, **found.groupdict())
                    break
            else:
                raise Refused(404, f"no such endpoint: {self.command} {path}")
        except Refused as refused:
            status, message = refused.status, refused.message
            answer = {"error": message} | ({"url": refused.url} if refused.url else {})
        sent = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(sent)))
        if message:
            self.send_header("X-Error-Message", message)
        self.end_headers()
        self.wfile.write(sent)

    do_GET = do_POST = do_PUT = _answer  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: `Hub.requests` has the requests."""


class HubServer(ThreadingHTTPServer):
    """Serves a `Hub` at a free port of this machine, within a ``with`` block."""

    daemon_threads = True

    def __init__(self) -> None:
        self.hub = Hub()
        super().__init__(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self.hub}))
        self.hub.url = f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> HubServer:
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *ended: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()
