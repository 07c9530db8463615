"""Distillation: a trained teacher's logits over the training windows, kept on disk, as soft targets of a student."""
