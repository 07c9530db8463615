"""A training run's checkpoints, resume, signals, curves, speed, failures and record."""

SORTS = {  # by what runs are sorted -> field of `RunSummary`, and 1 if the smallest is first, -1 if the largest is
    "f1": ("judged", -1),
    "em": ("exact", -1),
    "minutes": ("minutes", 1),
    "speed": ("speed", -1),
    "memory": ("memory", 1),
    "run": (None, 1),  # as they are given
}
