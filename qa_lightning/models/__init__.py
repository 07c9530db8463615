"""A model's name or folder to weights and tokenizer, and back to a folder; its loss and its settings."""
