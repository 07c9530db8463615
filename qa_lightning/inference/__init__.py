"""Answer questions with a trained model: the pipeline, the reader, the scores of transformers 4.57."""
