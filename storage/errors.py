"""The error that means the input is at fault, not the program. Knows nothing else."""


class InputError(ValueError):
    """Bad input: one line that says what is wrong, where, and what to do. Shown without a traceback."""
