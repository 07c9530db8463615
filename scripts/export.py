"""See `qa_lightning.cli.export.export_main`; `--help` lists the flags."""

from qa_lightning.cli.export import export_main

if __name__ == "__main__":
    export_main()
