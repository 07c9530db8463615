"""What people look at in a browser: the report of a model's errors, the table of runs, and the page to ask in."""
