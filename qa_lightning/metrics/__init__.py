"""Scores answers: EM and F1, thresholds for "no answer", calibration, and figures of them."""
