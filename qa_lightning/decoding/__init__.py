"""Turns logits into the best spans and answers of each example: an exact search over all of its windows."""
