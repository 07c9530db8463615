"""Raw rows to validated examples: what sources hold, in whichever format, columns and spelling."""
