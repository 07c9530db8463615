"""Documents of all kinds as texts, their passages, and one ranking of the answers in them."""
