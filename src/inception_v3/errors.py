"""Exceptions for invalid input, whose messages name the fault and the remedy, on one line of printable characters."""

import unicodedata

UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")  # Unicode's categories of controls, surrogates and line ends
INVISIBLE = "\u115f\u1160\u3164\uffa0"  # the Hangul fillers, which count as letters
JOINERS = "\u200c\u200d"


def printable(text: object) -> str:
    """Return `str(text)` on one line that shows every character. Every text from a file passes it before a terminal.

    These characters are escaped as in Python's string literals, such as \\x1b or \\u202e: control characters and line
    ends; bytes of file names outside UTF-8, as `os.fsdecode` gives them; and characters that are invisible or change
    the order of the text (Unicode's category Cf, and the Hangul fillers). The joiners U+200C and U+200D stay where
    emoji and scripts need them: after a symbol, a combining mark or an Arabic letter, and before another such
    character or a letter without upper and lower case.
    """
    text = str(text)
    if text.isascii() and text.isprintable():
        return text
    shown = zip(" " + text, text, text[1:] + " ", strict=False)
    return "".join(c if _is_visible(c) or _joins(before, c, after) else escape(c) for before, c, after in shown)


def _is_visible(c: str) -> bool:
    return unicodedata.category(c) not in (*UNPRINTABLE, "Cf") and c not in INVISIBLE


def _joins(before: str, c: str, after: str) -> bool:
    """Whether a joiner stands between characters of an emoji, or of a script that needs it."""
    follows = unicodedata.category(before) in ("So", "Sk", "Mn") or unicodedata.bidirectional(before) == "AL"
    return c in JOINERS and follows and not after.isascii() and after.lower() == after.upper() and _is_visible(after)


def escape(text: str) -> str:
    """The escapes of all characters, as in Python's string literals."""
    return text.encode("unicode_escape").decode()


class InputError(Exception):
    """Invalid input from outside: a file, a folder, an option, a full disk.

    The message is one line that names the file or option and the remedy. It is escaped by `printable`, because names
    may hold any characters. The command line prints it without a traceback and exits with `exit_status`: 2 for wrong
    usage (an option or argument that cannot work), 3 if the command finished but some images could not be read, 1 for
    everything else.
    """

    def __init__(self, message: str, *, exit_status: int = 1) -> None:
        super().__init__(printable(message))
        self.exit_status = exit_status


class NotFiniteError(InputError, ValueError):
    """The values that a network computes for an image are infinite or NaN. Other images may have results."""


class OptionTypeError(InputError, TypeError):
    """An option of `load` that no model has, or whose value has the wrong type."""


class OptionValueError(InputError, ValueError):
    """An option of `load` with a value that no model can have."""


class NoScoreError(ValueError):
    """A score that is not defined for these image sets, while others may be. The message gives the reason."""
