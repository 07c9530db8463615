"""A trained model to ONNX, to a model card, to the Hub."""
