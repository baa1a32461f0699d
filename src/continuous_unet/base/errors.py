"""Exceptions that the command line understands: each carries its exit code."""


class InputError(ValueError):
    """Bad input from the user: an argument, a file or a configuration.

    The message says in one or two sentences what was wrong, what was expected and what to do. The command line prints
    it as one line and exits with code 2. In Python it is an ordinary `ValueError`.
    """

    exit_code = 2


class RunFailed(RuntimeError):
    """A run that was requested correctly and did not succeed, such as a training that diverged.

    The message says what happened and what to do. The command line prints it as one line and exits with code 1.
    """

    exit_code = 1


def first_line(error: BaseException) -> str:
    """Returns the first line of an exception's message, or its class name if the message is empty."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
