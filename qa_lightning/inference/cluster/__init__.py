"""Files of questions to folders of answers, on a Ray cluster."""
