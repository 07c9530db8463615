"""The rooms of the package, from left to right: a room imports from itself and from rooms before it."""

from __future__ import annotations

ROOMS = (
    *("errors", "files", "arrays", "wording", "data", "features", "decoding", "metrics", "models", "checks", "runs"),
    *("inference", "inference.bulk", "training", "export", "cli"),
)
