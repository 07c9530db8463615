"""Cross-validation: each question is answered by a model that did not see it; the command ``crossval``."""
