"""``python -m qa_lightning``: the same as ``qa-lightning``."""

from qa_lightning.cli.main import main

if __name__ == "__main__":
    main()
