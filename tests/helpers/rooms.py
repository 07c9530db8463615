"""The rooms of the package, from left to right: a room may import from itself and from rooms to its left."""

from __future__ import annotations

ROOMS = (
    *("wording", "errors", "paths", "files", "caching", "arrays", "progress", "layout", "marking", "workers"),
    *("data.formats", "data", "features", "decoding", "documents", "metrics", "models.computing", "models"),
    *("checks", "runs", "runs.peers", "distillation", "inference", "inference.bulk", "inference.cluster", "pages"),
    *("pages.demo", "training.steps", "training", "evaluation", "export", "studies", "crossval", "sweep"),
    *("cli", "cli.pages", "cli.studies"),
)
