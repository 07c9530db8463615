"""The rooms of the package, in their order."""

from __future__ import annotations

# From left to right: a room imports from itself and from rooms before it. The first four are single files.
ROOMS = (
    *("errors", "files", "arrays", "commands", "data", "features", "decoding", "metrics", "models", "checks", "runs"),
    *("inference", "inference.bulk", "training", "export", "cli"),
)
