"""See `qa_lightning.cli.console.train_main`; `--help` lists the flags."""

from qa_lightning.cli.console import train_main

if __name__ == "__main__":
    train_main()
