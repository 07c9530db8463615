"""Logits to spans and answers, exactly and over all windows."""
