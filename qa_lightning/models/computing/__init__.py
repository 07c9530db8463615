"""How a model computes: loss, attention, dropout, layers; faster on a CPU, and without waits on a GPU."""
