"""Cut examples into features (windows of tokens with labels), keep them on disk, and pad them into batches."""
