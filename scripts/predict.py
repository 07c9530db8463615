"""See `qa_lightning.cli.predict.predict_main`; `--help` lists the flags."""

from qa_lightning.cli.predict import predict_main

if __name__ == "__main__":
    predict_main()
