"""A command of a user whose number stands in no list of users, as in many containers.

python tests/helpers/stranger.py COMMAND FLAGS

In the environment, MAX_FILE_BYTES is how large a file may become, as on a disk that is full.
"""

from __future__ import annotations

import os
import pwd
import resource
import tempfile

from qa_lightning.cli.main import main


def unknown(user: int) -> None:
    raise KeyError(user)


if __name__ == "__main__":
    pwd.getpwuid = unknown
    tempfile.tempdir = None  # TMPDIR may be another one than that of the process from which this one was forked
    if limit := int(os.environ.get("MAX_FILE_BYTES", 0)):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    main()
