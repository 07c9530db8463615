"""Find errors and risks in data before training."""
