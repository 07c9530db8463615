"""See `qa_lightning.commands.export_main`; `--help` lists the flags."""

from qa_lightning.commands import export_main

if __name__ == "__main__":
    export_main()
