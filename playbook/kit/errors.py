"""The one exception that means "the reader's input is at fault, and this is what to do"."""


class InputError(Exception):
    """Bad input. The message is one line: what is wrong and what to do. The command line prints it and exits with 2."""
