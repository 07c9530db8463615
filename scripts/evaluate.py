"""See `qa_lightning.cli.evaluate.evaluate_main`; `--help` lists the flags."""

from qa_lightning.cli.evaluate import evaluate_main

if __name__ == "__main__":
    evaluate_main()
