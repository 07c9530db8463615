"""See `qa_lightning.cli.train_main`; `--help` lists the flags."""

from qa_lightning.cli import train_main

if __name__ == "__main__":
    train_main()
