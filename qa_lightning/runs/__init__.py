"""A training run's checkpoints, resume, signals, curves, speed, failures and record."""
