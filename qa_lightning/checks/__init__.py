"""What is wrong with data, or worth a look, before training."""
