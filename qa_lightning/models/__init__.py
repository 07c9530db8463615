"""Loads models and tokenizers by name or folder, saves them to folders, and holds their loss and settings."""
