"""What a step of training is made of: the batch size that memory decides, CUDA graphs, the optimizer."""
