"""The one exception that means "the input was wrong", as opposed to "the program is wrong"."""


class InputError(ValueError):
    """Bad input from the user: an argument, a file or a configuration.

    The message is one or two sentences: what was wrong, what was expected, what to do. The command line prints it as
    one line and exits with code 2; from Python it is an ordinary `ValueError`.
    """
