"""``demo``: a page in the browser to ask a model in."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Sequence
from math import inf
from typing import Any

from jsonargparse import Namespace

from qa_lightning.cli.console import quiet_libraries
from qa_lightning.cli.flags import MODELS_HELP, Flags, decimal, local_path, port, positive, web_address
from qa_lightning.errors import naming_flags
from qa_lightning.pages.demo.limits import Limits

HOST, PORT = "127.0.0.1", 7860


@naming_flags(groups=False)
def demo(words: Sequence[str]) -> int:
    """Serve a page to ask a model in, until Ctrl-C; returns the exit status."""
    options = _demo_options(words)
    from qa_lightning.pages.demo.answers import Asker
    from qa_lightning.pages.demo.bounds import quiet_gradio, require_gradio
    from qa_lightning.pages.demo.examples import openings_for
    from qa_lightning.pages.demo.page import Page, serve
    from qa_lightning.pages.demo.server import bound_socket, report_beside
    from qa_lightning.runs.signals import ends_with_terminal

    require_gradio()
    quiet_libraries()
    if threading.current_thread() is threading.main_thread():  # so that dropped files go then, too
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        if ends_with_terminal():  # as on SIGTERM, which the server handles while it serves: open pages would hold it
            signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
    bound = bound_socket(options.host or HOST, PORT if options.port is None else options.port)  # before the model loads
    with bound, quiet_gradio():
        from qa_lightning.inference.reader import Reader
        from qa_lightning.models.loading import lasting_names

        model = lasting_names(options.model)
        reader = Reader.from_pretrained(model, threshold_file=options.threshold_file)
        names = ("characters", "seconds", "concurrency", "file_mb")
        given: dict[str, Any] = {name: options[f"max_{name}"] for name in names if options[f"max_{name}"] is not None}
        asker = Asker(reader.asked, Limits(**given))
        page = Page(asker, model, openings_for(model, reader.settings.version_2), report_beside(model))
        serve(page, bound, options.host or HOST, options.root_url, lambda line: print(line, flush=True))
    return 0


def _demo_options(words: Sequence[str]) -> Namespace:
    flags = Flags("demo", "Serve a page in the browser to ask a model in: paste a text, or drop files.")
    flags.add_argument("--model", type=str, required=True, metavar="NAME", help=MODELS_HELP)
    flags.add_argument(
        "--threshold_file", type=local_path, metavar="FILE", help="threshold and temperature from an evaluation"
    )
    where = flags.add_argument_group("where it is served")
    where.add_argument(
        "--host", type=str, metavar="NAME", help=f"address to bind; 0.0.0.0 lets other machines ask  [{HOST}]"
    )
    where.add_argument("--port", type=port, metavar="N", help=f"port; 0 takes a free one  [{PORT}]")
    where.add_argument("--root_url", type=web_address, metavar="URL", help="the page's address, if a proxy serves it")
    usual = Limits()
    limits = flags.add_argument_group("limits, for each question")
    limits.add_argument(
        "--max_characters", type=positive, metavar="N", help=f"of the text and all files  [{usual.characters}]"
    )
    limits.add_argument("--max_seconds", type=decimal, metavar="S", help=f"of computing  [{usual.seconds:g}]")
    limits.add_argument(
        "--max_concurrency", type=positive, metavar="N", help=f"questions at a time; others wait  [{usual.concurrency}]"
    )
    limits.add_argument("--max_file_mb", type=positive, metavar="N", help=f"size of a file, in MB  [{usual.file_mb}]")
    options = flags.read(words)
    if options.max_seconds is not None and not 0 < options.max_seconds < inf:
        flags.error(f"--max_seconds is {options.max_seconds:g}; pass a number above 0")
    return options
