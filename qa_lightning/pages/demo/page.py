"""The page to ask in: paste a text or drop files, type a question, and see the answer in its place.

Gradio draws the inputs and carries the calls; what is shown of texts and answers is HTML from `view`. Nothing on
the page comes from another host: no fonts, no analytics, no CDN (`server` forbids it to the browser, too).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from socket import socket
from typing import Any, NamedTuple
from uuid import uuid4

from qa_lightning.errors import InputError
from qa_lightning.layout import run_of
from qa_lightning.marking import inert
from qa_lightning.models.loading import model_names
from qa_lightning.models.settings import AnswerSettings
from qa_lightning.pages.demo.answers import Asked, Asker, at_threshold
from qa_lightning.pages.demo.bounds import refuse_addresses, within_a_loop
from qa_lightning.pages.demo.examples import Opening, Openings
from qa_lightning.pages.demo.server import Guarded, Server, address_of, hosts_of
from qa_lightning.pages.demo.view import WELCOME, Panel, answers_panel, marked_text, problem_panel

log = logging.getLogger("qa_lightning")

REPORT_ROUTE = "/report.html"
_HERE = Path(__file__).parent
_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")
_KEEP_FILES = (600, 3600)  # seconds: how often to look for dropped files to remove, and how old these are
_FAILED = "Something went wrong here; the terminal in which the page was started says what"
_THRESHOLDS = 15.0  # to either side of the model's own


class _Parts(NamedTuple):
    """The components that do something, and ``now``: the `_Now` that is kept for each open page."""

    question: Any
    button: Any
    text: Any
    new: Any
    reading: Any
    files: Any
    openings: list[Any]
    panel: list[Any]
    threshold: Any
    now: Any


@dataclass
class _Now:
    """Where a person is on an open page.

    Attributes:
        turn: counts what the person asked and took away; an answer to an earlier turn comes too late.
        asked: the answers that are shown; None without any.
        threshold: that they were asked at.
    """

    turn: int = 0
    asked: Asked | None = None
    threshold: float | None = None

    def begin(self) -> int:
        """The next turn: what was shown, and what is still being answered, is over."""
        self.turn += 1
        self.asked = None
        return self.turn


class Page:
    """The page of one model.

    Args:
        asker: answers.
        name: of the model, its folder or its name on the Hub.
        openings: questions to begin with, at least one.
        report: the report of the model's run; None if there is none.
    """

    def __init__(self, asker: Asker, name: str, openings: Openings, report: Path | None = None) -> None:
        self._asker = asker
        self._name = name
        self._openings = openings
        self._report = report

    def app(self, hosts: set[str], root_url: str | None = None) -> Guarded:
        """The page as an ASGI app.

        Args:
            hosts: names that it answers to; empty for any.
            root_url: the address that people see, if a proxy stands before it.
        """
        return Guarded(within_a_loop(partial(self._app, root_url)), self._asker.limits.body, hosts)

    def _app(self, root_url: str | None) -> Any:
        import gradio as gr
        from fastapi import FastAPI
        from fastapi.responses import FileResponse

        limits = self._asker.limits
        app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        if (report := self._report) is not None:

            @app.get(REPORT_ROUTE)
            def read_report() -> FileResponse:
                return FileResponse(report, media_type="text/html")

        blocks = self._blocks()
        blocks.queue(max_size=limits.waiting, default_concurrency_limit=limits.concurrency, api_open=False)
        gr.mount_gradio_app(
            app,
            blocks,
            path="/",
            footer_links=[],
            run_history=False,
            root_path=root_url,
            show_error=False,
            max_file_size=limits.file_mb * 1_000_000,
            ssr_mode=False,
            enable_monitoring=False,
            pwa=False,
            mcp_server=False,
            theme=_theme(gr),
            head=_page_head(),
            app_kwargs={"docs_url": None, "redoc_url": None, "openapi_url": None},
        )
        return app

    def _blocks(self) -> Any:
        import gradio as gr

        html = partial(gr.HTML, apply_default_css=False)
        title, keep = "Ask a text", _KEEP_FILES
        with gr.Blocks(title=title, analytics_enabled=False, delete_cache=keep, fill_width=True) as blocks:
            html(self._head(), elem_id="qa-head")
            with gr.Row(elem_id="qa-ask"):
                question, button = _question(gr, self._openings.questions[0].question)
            with gr.Row(elem_id="qa-main"):
                with gr.Column(elem_id="qa-left"):
                    with gr.Row(elem_id="qa-tools"):
                        html("<h2>Text</h2>")
                        gr.Button("Edit", size="sm", elem_id="qa-edit")  # page.js does it
                        new = gr.Button("New text", size="sm", elem_id="qa-new")
                    text = _text(gr, self._openings.questions[0].context)
                    reading = html("", elem_id="qa-reading")
                    files = gr.File(file_count="multiple", label="Files", elem_id="qa-files")
                    openings = self._opening_buttons(gr)
                with gr.Column(elem_id="qa-right"):
                    panel = [html(WELCOME.headline, elem_id="qa-headline"), html(WELCOME.rows, elem_id="qa-panel")]
                    threshold = _slider(gr, self._asker.settings)
            self._connect(
                gr, _Parts(question, button, text, new, reading, files, openings, panel, threshold, gr.State(_Now()))
            )
            for block in list(blocks.blocks.values()):
                refuse_addresses(block)
        return blocks

    def _connect(self, gr: Any, on: _Parts) -> None:
        """Say what is called when a person does something."""
        outputs = [*on.panel, on.reading]
        quick: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "concurrency_limit": None}
        asking: dict[str, Any] = {
            "api_visibility": "private",
            "show_progress": "minimal",
            "show_progress_on": on.panel[0],
            "concurrency_limit": self._asker.limits.concurrency,
            "concurrency_id": "asking",
        }
        asks = [on.question.submit, on.button.click, on.text.submit]
        judging: dict[str, Any] = {
            "inputs": [on.now, on.threshold],
            "outputs": on.panel,
            **quick,
            "concurrency_limit": 1,  # in the order of the slider's moves
            "concurrency_id": "judging",
        }
        events = [
            gr.on(asks, self._answer, [on.now, on.question, on.text, on.files, on.threshold], outputs, **asking),
            *(
                one.click(
                    partial(self._open, opening),
                    [on.now, on.threshold],
                    [on.question, on.text, on.files, *outputs],
                    **asking,
                )
                for opening, one in zip(self._openings.questions, on.openings, strict=True)
            ),
        ]
        for event in events:
            event.then(self._judge_moved, **judging)
        on.threshold.change(self._judge, **judging)
        over: dict[str, Any] = {"cancels": events, **quick}
        on.new.click(lambda now: ("", None, *_cleared(now)), on.now, [on.text, on.files, *outputs], **over)
        on.files.upload(self._files_came, [on.now, on.text], [on.text, *outputs], **over)

    def _head(self) -> str:
        report = f'<a href="{REPORT_ROUTE[1:]}" target="_blank">Report of errors</a>' if self._report else ""
        return f'<header class="qa-head"><h1>Ask a text</h1><p>{inert(shown_name(self._name))}</p>{report}</header>'

    def _opening_buttons(self, gr: Any) -> list[Any]:
        with gr.Row(elem_id="qa-samples"):
            title = f'<h2>Examples <span class="qa-quiet">{inert(self._openings.source)}</span></h2>'
            gr.HTML(title, apply_default_css=False)
            return [gr.Button(one.question, size="sm", elem_classes="qa-sample") for one in self._openings.questions]

    def _answer(
        self, now: _Now, question: str, text: str, files: Sequence[str] | None, threshold: float
    ) -> tuple[Any, ...]:
        """What a question changes on the page: the panel, and the text."""
        return self._asked(now, question, text, files, threshold) or _nothing(3)

    def _open(self, opening: Opening, now: _Now, threshold: float) -> tuple[Any, ...]:
        """Put an example in and ask it."""
        shown = self._asked(now, opening.question, opening.context, None, threshold)
        return (opening.question, opening.context, None, *shown) if shown else _nothing(6)

    def _asked(
        self, now: _Now, question: str, text: str, files: Sequence[str] | None, threshold: float
    ) -> tuple[str, str, str] | None:
        """Panel and text with the answers, or with what is wrong; None if the person has moved on meanwhile."""
        turn = now.begin()
        asked, reading = None, _run("")
        try:
            documents = self._asker.documents(text or "", [Path(name) for name in files or ()])
            asked = self._asker.ask(question or "", documents)
            panel, reading = self._panel(asked, threshold), _run(marked_text(documents, asked))
        except InputError as error:
            panel = problem_panel(error.problems)
        except Exception:  # a page shows no traceback, whatever happens
            log.exception("a question could not be answered")
            panel = problem_panel([_FAILED])
        if now.turn != turn:
            return None
        now.asked, now.threshold = asked, threshold
        return *panel, reading

    def _files_came(self, now: _Now, text: str) -> Any:
        """Files take the place of an example's text; a text of one's own stays."""
        import gradio as gr

        return ("" if text in {one.context for one in self._openings.questions} else gr.skip(), *_cleared(now))

    def _judge(self, now: _Now, threshold: float) -> Any:
        """The panel at another threshold."""
        import gradio as gr

        return gr.skip() if now.asked is None else tuple(self._panel(now.asked, threshold))

    def _judge_moved(self, now: _Now, threshold: float) -> Any:
        """The panel at the slider's threshold, if it was moved while the question was answered."""
        import gradio as gr

        return gr.skip() if threshold == now.threshold else self._judge(now, threshold)

    def _panel(self, asked: Asked, threshold: float) -> Panel:
        settings = self._asker.settings
        own = settings.null_score_diff_threshold
        if settings.version_2 and threshold == round(own, 2):  # as the slider has it
            threshold = own
        return answers_panel(asked, at_threshold(asked, settings, threshold), settings)


def _run(html: str) -> str:
    """The text's HTML with a mark of its own: `page.js` then sees an answer that looks like the one before it."""
    return f'<div data-run="{uuid4().hex}">{html}</div>'


def shown_name(model: str) -> str:
    """A model's name for strangers: not where it lies on this machine."""
    if len(names := model_names(model)) > 1:
        return ", ".join(map(shown_name, names))
    path = Path(model)
    if not path.is_dir():
        return model
    return (run_of(model) or path.resolve()).name


def _nothing(count: int) -> tuple[Any, ...]:
    """So many components of the page stay as they are."""
    import gradio as gr

    return (gr.skip(),) * count


def _cleared(now: _Now) -> tuple[Any, ...]:
    """No answers: the panel, and the text."""
    now.begin()
    return *WELCOME, _run("")


def _page_head() -> str:
    """Style and script, as they are: Gradio rewrites what it gets as ``css``."""
    style, script = ((_HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return f"<style>{style}</style><script>{script}</script>"


def _question(gr: Any, first: str) -> tuple[Any, Any]:
    """The question and its button."""
    question = gr.Textbox(
        first,
        label="Question",
        placeholder="What do you want to know?",
        max_lines=1,
        autofocus=True,
        elem_id="qa-question",
        scale=1,
    )
    return question, gr.Button("Ask", variant="primary", elem_id="qa-go", scale=0, min_width=96)


def _text(gr: Any, first: str) -> Any:
    """The box that a text is pasted into."""
    return gr.Textbox(
        first,
        label="Text",
        show_label=False,
        container=False,
        placeholder="Paste a text here, or drop files below.",
        lines=8,
        max_lines=24,
        elem_id="qa-text",
    )


def _slider(gr: Any, settings: AnswerSettings) -> Any:
    """The threshold: of null odds, or for a model without "no answer" the lowest probability of an answer."""
    if settings.version_2:
        own = round(settings.null_score_diff_threshold, 2)
        ends, label = (own - _THRESHOLDS, own + _THRESHOLDS), "Threshold for “no answer”"
    else:
        own, ends, label = 0.0, (0.0, 1.0), "Lowest probability of an answer"
    slider = gr.Slider(*ends, own, step=0.01, label=label, elem_id="qa-threshold", buttons=["reset"])

    def within(typed: float | None) -> float:
        """A number beyond the ends is the end, and none the slider's own: Gradio would print a traceback."""
        return own if typed is None else min(max(typed, ends[0]), ends[1])

    slider.preprocess = within
    return slider


def _theme(gr: Any) -> Any:
    return gr.themes.Base(
        primary_hue="blue", neutral_hue="stone", font=_FONTS, font_mono=_MONO, radius_size="md", text_size="md"
    )


def serve(page: Page, bound: socket, host: str, root_url: str | None, say: Callable[[str], None]) -> None:
    """Serve a page until Ctrl-C.

    Args:
        page: what to serve.
        bound: where; closed at the end.
        host: the name that ``bound`` was made of.
        root_url: see `Page.app`.
        say: is given each line for the terminal.
    """
    address = root_url or address_of(bound, host)
    app = page.app(hosts_of(host, root_url), root_url)
    Server(app, bound, lambda: say(f"ask here: {address}  (Ctrl-C ends it)")).run()
    say("stopped")
