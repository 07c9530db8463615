"""The quickstart in a shortened form: fewer epochs, and it must still reach the stated EM."""

import re
import subprocess
import sys
import tempfile

EPOCHS, LEAST_EM = 3, 80.0

with tempfile.TemporaryDirectory() as folder:
    command = [sys.executable, "scripts/train.py", "--config", "configs/quickstart.yaml"]
    command += ["--trainer.max_epochs", str(EPOCHS), "--trainer.default_root_dir", folder]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line)
    if process.wait() != 0:
        sys.exit(f"the quickstart ended with status {process.returncode}")
scores = [float(found[1]) for line in lines if (found := re.match(r"best checkpoint +EM +([\d.]+)", line))]
if not scores or scores[0] < LEAST_EM:
    sys.exit(f"the shortened quickstart reached EM {scores}, less than {LEAST_EM}")
print(f"the shortened quickstart reached EM {scores[0]} (at least {LEAST_EM} is asked for)")
