"""Answers to EM, F1, thresholds, calibration and figures."""
