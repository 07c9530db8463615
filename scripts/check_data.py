"""See `qa_lightning.cli.check_data.check_data_main`; `--help` lists the flags."""

from qa_lightning.cli.check_data import check_data_main

if __name__ == "__main__":
    check_data_main()
