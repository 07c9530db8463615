"""The commands that train more than one model."""
