"""See `qa_lightning.cli.train.train_main`; `--help` lists the flags."""

from qa_lightning.cli.train import train_main

if __name__ == "__main__":
    train_main()
