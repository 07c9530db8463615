"""Evaluation: score a model, or saved answers, on data with answers; the command ``evaluate``."""
