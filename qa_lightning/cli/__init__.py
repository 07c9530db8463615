"""The commands of ``qa-lightning``, one module each, and what they share."""
