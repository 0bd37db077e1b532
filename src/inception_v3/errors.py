"""Exceptions for invalid input, whose messages name the fault and the remedy."""


class InputError(Exception):
    """Invalid input from outside: a file, a folder, an option, a full disk.

    The message is one line that names the file or option and the remedy. It is escaped by `printable`, because names
    may hold any characters. The command line prints it without a traceback and exits with `exit_status`: 2 for wrong
    usage (an option or argument that cannot work), 3 if the command finished but some images could not be read, 1 for
    everything else.
    """

    def __init__(self, message: str, *, exit_status: int = 1) -> None:
        from inception_v3.support.text import printable  # which imports this module

        super().__init__(printable(message))
        self.exit_status = exit_status


class OptionTypeError(InputError, TypeError):
    """An option of `load` that no model has, or whose value has the wrong type."""


class OptionValueError(InputError, ValueError):
    """An option of `load` with a value that no model can have."""


class NoScoreError(ValueError):
    """A score that is not defined for these image sets, while others may be. The message gives the reason."""
