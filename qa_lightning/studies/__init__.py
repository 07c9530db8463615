"""Studies: what several runs of ``train`` have in common, as folds or trials: their processes, their flags."""
