"""What bad input raises: the message says what is at fault, and what to do about it."""


class InputError(Exception):
    """Bad input from outside: a file, a folder, an option, a full disk.

    The message is one line that names the file or option and says what to do next. The command line
    prints it without a traceback and exits with `exit_status`: 2 for wrong use (an option or an
    argument that cannot work), 1 for everything else.
    """

    def __init__(self, message: str, *, exit_status: int = 1) -> None:
        super().__init__(message)
        self.exit_status = exit_status


class NoScoreError(ValueError):
    """A score that these sets cannot have, while they may have others. The message says why, and what it takes."""
