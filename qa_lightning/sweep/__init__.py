"""A search over the flags of ``train``: its space, the study that all its processes share, the runs of its trials."""
