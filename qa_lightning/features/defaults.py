"""The default lengths (in tokens) and batch size, and the number types, for settings, functions and commands alike.

The lengths are those of the known recipe for SQuAD (Devlin et al., 2018; transformers' ``run_qa.py``). Nothing is
imported here, so that a command's ``--help`` can show them at once.
"""

MAX_LENGTH = 384  # of a window, question and special tokens included
DOC_STRIDE = 128  # tokens of context that two neighbouring windows share
MAX_QUESTION_LENGTH = 64  # longer questions are cut
MAX_ANSWER_LENGTH = 30  # of a predicted answer
DTYPES = ("float32", "bfloat16", "float16")  # to compute answers in, the default first
BATCH_SIZE = 8  # windows per training step and device
EVAL_BATCH_SIZE = 32  # windows per forward pass where nothing is trained: validation, evaluation, prediction
