"""Write a trained model as ONNX, write its model card, and upload it to the Hub."""
