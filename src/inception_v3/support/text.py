"""Text that is safe to print."""

import unicodedata


def printable(text: object) -> str:
    """Return `str(text)` on one line of valid UTF-8.

    Line ends, terminal controls and bytes outside UTF-8 are escaped as in Python's string literals. File names may
    contain such characters; messages and JSON lines may not.
    """
    unsafe = ("Cc", "Cs", "Zl", "Zp")
    return "".join(c.encode("unicode_escape").decode() if unicodedata.category(c) in unsafe else c for c in str(text))
