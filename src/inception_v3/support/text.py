"""Text that is safe to print."""

import unicodedata


def printable(text: object) -> str:
    """The text with line ends, terminal controls and bytes outside UTF-8 escaped, as in Python's string literals.

    File names may hold such characters; messages and lines of JSON may not.
    """
    unsafe = ("Cc", "Cs", "Zl", "Zp")
    return "".join(c.encode("unicode_escape").decode() if unicodedata.category(c) in unsafe else c for c in str(text))
