"""Makes pages that open offline and in which text from data stays text.

A page is one file: styles, script and data are in it, and nothing is fetched. Three rules keep hostile text inert:
templates escape every value, and show control characters as escapes; data for the script stands in a block of JSON that
cannot end early, and the script shows it as text alone; and a Content-Security-Policy runs no other script than the
page's own, by its digest, and allows no request.
"""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from qa_lightning.wording import visible

ASSETS = Path(__file__).parent / "assets"
_INERT = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def make_page(name: str, values: dict[str, Any], data: Any = None) -> str:
    """The HTML of a page.

    Args:
        name: of its template, and of its script and style if it has its own: ``NAME.html``, ``NAME.js``, ``NAME.css``.
        values: for the template; texts are escaped.
        data: for the script, which finds it in the element ``data``; plain values. None for no data.
    """
    styles, script = "".join(map(_asset, ("base.css", f"{name}.css"))), _asset(f"{name}.js")
    page = _environment().get_template(f"{name}.html")
    return page.render(
        **values,
        styles=Markup(styles),  # our own files, which hold no end tag
        script=Markup(script),
        policy=_policy(styles, script),
        data=embedded(data),
    )


def embedded(data: Any) -> Markup:
    """Plain values as JSON inside a ``<script>`` element, whatever texts they hold."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for letter, code in _INERT.items():
        text = text.replace(letter, code)
    return Markup(text)


def as_bytes(page: str) -> bytes:
    """UTF-8; half of a surrogate pair, which UTF-8 cannot hold, as an escape."""
    return page.encode("utf-8", "backslashreplace")


def framed(page: str, height: int) -> str:
    """A page inside a notebook, apart from the notebook's own scripts and styles.

    Args:
        page: the HTML of a whole page.
        height: in pixels.
    """
    inner = escape(page)
    return (
        f'<iframe srcdoc="{inner}" sandbox="allow-scripts" width="100%" height="{height}" '
        'style="border:1px solid #8884;border-radius:6px"></iframe>'
    )


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(ASSETS, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _shown(value: Any) -> Any:
    """What is printed of a value: a text from data without control characters; our own markup as it is."""
    return visible(value, lines=True) if isinstance(value, str) and not isinstance(value, Markup) else value


@cache
def _asset(name: str) -> str:
    path = ASSETS / name
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _policy(styles: str, script: str) -> str:
    def own(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    rules = ("default-src 'none'", f"style-src {own(styles)}", f"script-src {own(script)}")
    return "; ".join([*rules, "base-uri 'none'", "form-action 'none'"])
