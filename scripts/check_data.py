"""See `qa_lightning.cli.commands.check_data_main`; `--help` lists the flags."""

from qa_lightning.cli.commands import check_data_main

if __name__ == "__main__":
    check_data_main()
