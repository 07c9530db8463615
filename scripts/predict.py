"""See `qa_lightning.commands.predict_main`; `--help` lists the flags."""

from qa_lightning.commands import predict_main

if __name__ == "__main__":
    predict_main()
