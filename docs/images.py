"""Make the images of these pages from the quickstart's model, in a headless Chromium.

    python docs/images.py                       all images, of a quickstart that is trained for it
    python docs/images.py report.png            some of them
    python docs/images.py --model FOLDER        of a quickstart's model that is there

It needs playwright, and a chromium on the PATH. Each image is a function of `IMAGES`, which shows on a page what the
picture is taken of.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import ExitStack, redirect_stdout
from html import escape
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from playwright.sync_api import Page, sync_playwright
from tensorboard.program import TensorBoard

from qa_lightning.cli.main import call
from qa_lightning.inference.reader import Reader
from qa_lightning.pages.demo.answers import Asker
from qa_lightning.pages.demo.examples import openings_for
from qa_lightning.pages.demo.limits import Limits
from qa_lightning.pages.demo.server import report_beside
from tests.helpers.browser import chromium_path
from tests.helpers.pages import served

WIDTH, HEIGHT = 1100, 760  # pixels of an image
MODEL = "lightning_logs/version_0/model"  # as readers have it
MORE = Path("lightning_logs/version_1")  # a second run, for the table
UNTIL_TAKEN = ExitStack()  # what an image needs until it is taken, such as a server
MEMBERS = """\
The club meets on Friday evenings. Priya works as a dentist and has a flat in Lisbon. Tea and cake were served at \
four. Kofi plays the cello. In the band Elena plays the French horn. Hugo is a baker and looks after a white goat. \
Long ago Priya was born in Cairo. Elena lives in Vienna. Kofi calls Rome home and has been here since 2011.

The hall is a short walk from the station. Sara joined the club in 2019. Omar plays the banjo, and Sara practises the \
violin every day. At home Omar has a black parrot. By profession Omar is a pilot. Originally Omar is from Oslo.

These days Omar lives in Boston. For now Sara's home is Nairobi. Members share the work between them."""


def quickstart_model(given: str | None) -> None:
    """Put a model of the quickstart at `MODEL`: one that is given, or one that still has errors to show."""
    if given:
        shutil.copytree(given, MODEL)
    else:
        call("train", ["--config", "quickstart", "--trainer.max_epochs", "2"])


def report(page: Page) -> None:
    """The report of errors, at its surest one."""
    if not Path("report.html").is_file():
        call("report", ["--model", MODEL, "--data", "synthetic", "--max_examples", "300"])
    page.goto(Path("report.html").resolve().as_uri())


def slices(page: Page) -> None:
    """Its curves and slices."""
    report(page)
    page.locator("#trust").evaluate("part => part.scrollIntoView()")


def demo(page: Page) -> None:
    """The page to ask in, with an answer, and the windows shown."""
    reader = Reader.from_pretrained(MODEL)
    openings = openings_for(MODEL, reader.settings.version_2)
    served_at = served(Asker(reader.asked, Limits()), openings, name=MODEL, report=report_beside(MODEL))
    page.goto(UNTIL_TAKEN.enter_context(served_at))
    page.fill("#qa-text textarea", MEMBERS)
    page.fill("#qa-question input", "Which pet does Omar have?")
    page.press("#qa-question input", "Enter")
    page.click("#qa-panel summary")
    page.mouse.move(0, 0)
    page.wait_for_timeout(500)  # bars grow


def terminal(page: Page) -> None:
    """What a training prints where its output goes to a file, and the table of two runs."""
    commands = [
        ["train", "--config", "quickstart", "--trainer.max_epochs", "2", "--model.learning_rate", "1e-3"],
        ["compare", *sorted(str(run) for run in Path(MODEL).parents[1].glob("version_*")), str(MORE)],
    ]
    printed = []
    for words in commands:
        with redirect_stdout(StringIO()) as said:
            call(words[0], words[1:])
        shown = [one if "version_" not in one else "lightning_logs/version_*" for one in words]
        lines = [line for line in said.getvalue().splitlines() if not line.startswith(("step ", "curves:", "ask it:"))]
        printed.append("\n".join([f"$ qa-lightning {' '.join(dict.fromkeys(shown))}", *lines]))
    colours = "margin:0; background:#14171c; color:#e6e8eb"
    style = f"{colours}; padding:20px; white-space:pre-wrap; font:14px/1.45 'DejaVu Sans Mono', monospace"
    text = escape("\n\n".join(printed))
    page.set_content(f'<body style="{colours}"><pre style="{style}">{text}</pre></body>')


def tensorboard(page: Page) -> None:
    """TensorBoard's page of the whole quickstart."""
    call("train", ["--config", "quickstart", "--trainer.default_root_dir", "whole"])
    board = TensorBoard()
    board.configure(argv=["tensorboard", "--logdir", "whole/lightning_logs", "--port", "0"])
    page.set_viewport_size({"width": 1400, "height": 860})  # room for two curves in a row
    page.goto(board.launch())
    page.get_by_text("Overview/F1").wait_for(timeout=60_000)
    page.get_by_role("button", name="Settings").click()  # closes them
    page.wait_for_timeout(5000)  # curves are drawn


IMAGES: dict[str, Callable[[Page], None]] = {
    "report.png": report,
    "report-slices.png": slices,
    "demo.png": demo,
    "terminal.png": terminal,
    "tensorboard.png": tensorboard,
}


def main() -> None:
    """Make the images that the flags name, or all."""
    flags = argparse.ArgumentParser(description="Make the images of the docs.")
    flags.add_argument("images", nargs="*", choices=[*IMAGES, []], help="names; all without one")
    flags.add_argument("--model", help="folder of a quickstart's model")
    options = flags.parse_args()
    given = str(Path(options.model).resolve()) if options.model else None
    with TemporaryDirectory() as folder, UNTIL_TAKEN, sync_playwright() as driver:
        os.chdir(folder)
        quickstart_model(given)
        browser = driver.chromium.launch(executable_path=chromium_path(), args=["--no-sandbox"])
        for name in options.images or IMAGES:
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
            IMAGES[name](page)
            image = ROOT / "docs" / name
            page.screenshot(path=image)
            page.close()
            print(f"docs/{name}: {image.stat().st_size / 1000:,.0f} kB")
        browser.close()
        os.chdir(ROOT)


if __name__ == "__main__":
    main()
