"""What keeps a run alive and on record: checkpoints, signals, curves, speed, failures."""
