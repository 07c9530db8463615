"""Serves the page to ask in: one address, limits on requests, and no way out to other hosts.

The page's own headers forbid the browser to ask anybody else. Behind a proxy, ``root_url`` names the address that
people see.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from qa_lightning.errors import InputError
from qa_lightning.layout import REPORT, run_of

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
# Gradio evaluates templates and small functions of its own, so scripts within the page must be allowed.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'self'"
)
_HEADERS = [
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Guarded:
    """An ASGI app whose requests are limited, and whose answers carry the headers above.

    Args:
        app: what is guarded.
        max_body: bytes of a request, at most.
        hosts: names by which the page may be asked for; empty for any. A page on the loopback address is asked for by
            its own names alone, or the script of a page elsewhere could read it by a name that leads here.
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], max_body: int, hosts: set[str]) -> None:
        self._app = app
        self._max_body = max_body
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if self._hosts and _name_in(headers.get(b"host", "")) not in self._hosts:
            await _refuse(send, 403, "This page is not served under this name; start it with --root_url or --host.")
            return
        length = headers.get(b"content-length", "0")
        if length.isdigit() and int(length) > self._max_body:
            await _refuse(send, 413, "The request is larger than this page takes.")
            return
        received = 0

        async def counted_receive() -> MutableMapping[str, Any]:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_body:  # its length was not announced
                return {"type": "http.disconnect"}
            return message

        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *_HEADERS]
            await send(message)

        await self._app(scope, counted_receive, send_with_headers)


def _name_in(host: str) -> str:
    """The name in a Host header, without its port; empty if there is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:  # a bracket that does not close
        return ""


async def _refuse(send: Send, status: int, sentence: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *_HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": sentence.encode()})


def hosts_of(host: str, root_url: str | None) -> set[str]:
    """The names that a page bound to ``host`` answers to; empty for any name, if other machines may ask for it."""
    if host not in _LOOPBACK:
        return set()
    return {*_LOOPBACK, *([urlsplit(root_url).hostname or ""] if root_url else [])}


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket at an address; port 0 takes a free one.

    Raises:
        InputError: the address is not to be had, and why.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:  # the latter for an empty or a long part of a name
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"--host {host}: no address of this machine ({reason})") from None
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind(address)
        found.listen()  # a port that is only bound is not taken: another process could bind it, too
    except OSError as error:
        found.close()
        if error.errno == errno.EADDRINUSE:
            raise InputError(
                f"--port {port} is in use on {host}; pass another one, or 0 for one that is free"
            ) from None
        if error.errno == errno.EACCES:
            raise InputError(f"--port {port} may not be used by this user; pass one from 1024 on") from None
        raise InputError(f"--host {host}: not an address of this machine ({error.strerror or error})") from None
    return found


def address_of(bound: socket.socket, host: str) -> str:
    """The address of the page for people on this machine."""
    port = bound.getsockname()[1]
    shown = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"


class Server:
    """A page that is served until it is stopped.

    Args:
        app: the page.
        bound: where.
        ready: is called once requests are answered.
    """

    def __init__(self, app: Any, bound: socket.socket, ready: Callable[[], None]) -> None:
        import uvicorn

        class Announced(uvicorn.Server):
            """Says when it has started."""

            async def startup(self, sockets: list[socket.socket] | None = None) -> None:
                """Start, then say so."""
                await super().startup(sockets)
                ready()

        # Open pages keep a connection; after Ctrl-C they are given a moment.
        config = uvicorn.Config(app, log_config=None, log_level="critical", timeout_graceful_shutdown=1)
        self._server = Announced(config)
        self._bound = bound

    def run(self) -> None:
        """Serve until Ctrl-C or `stop`."""
        try:
            self._server.run(sockets=[self._bound])
        except (KeyboardInterrupt, asyncio.CancelledError):  # the server raises the signal again once it has ended
            pass
        finally:
            self._bound.close()

    def stop(self) -> None:
        """End `run`, from another thread."""
        self._server.should_exit = True


def report_beside(model: str) -> Path | None:
    """The report of a run, beside the folder of its model; None if there is none."""
    run = run_of(model)
    file = None if run is None else run / REPORT
    return file if file is not None and file.is_file() else None
