"""Examples to features and batches: windows of tokens, their labels, their files, their padding."""
