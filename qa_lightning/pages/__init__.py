"""What people look at in a browser: the report of a model's errors, the table of runs, and the page to ask in."""

MAX_QUESTIONS = 1000  # that a report's page holds, unless asked for another number
