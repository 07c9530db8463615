"""`qa-lightning sweep` in a checkout, installed or not; `--help` lists the flags."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # in place of scripts/, whose evaluate.py hides the library

from qa_lightning.cli.main import run

if __name__ == "__main__":
    run("sweep")
