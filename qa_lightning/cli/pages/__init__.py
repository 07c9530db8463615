"""The commands that write pages to look at."""
