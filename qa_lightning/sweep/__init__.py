"""A search over the flags of ``train``: its space, the study that all its processes share, the runs of its trials."""

PRUNERS = ("median", "halving", "none")  # words after --pruner; see `study.pruner_of`
