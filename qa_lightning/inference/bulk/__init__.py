"""Files of questions to files of answers, on one or several devices."""
