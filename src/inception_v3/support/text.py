"""Text that is safe to print, and messages about unknown names."""

import codecs
import math
import unicodedata
from collections.abc import Iterable

from inception_v3.errors import InputError


def printable(text: object) -> str:
    """Return `str(text)` on one line of valid UTF-8.

    Line ends, terminal controls and bytes outside UTF-8 are escaped as in Python's string literals. File names may
    contain such characters; messages and JSON lines may not.
    """
    unsafe = ("Cc", "Cs", "Zl", "Zp")
    return "".join(c.encode("unicode_escape").decode() if unicodedata.category(c) in unsafe else c for c in str(text))


def count_of(count: int, noun: str) -> str:
    """The number and the noun, in the plural unless there is one: "1 image", "1,000 images"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def percent(fraction: float | None, count: int) -> str:
    """Format a fraction as a percentage with the digits that `count` images warrant; None as a dash.

    There is no digit after the point below 1,000 images, one below 10,000, and then two: "55 %" of 69 images. Near 0
    and 1 the standard error is smaller, and its first digit is shown: "99.7 %" of 360 images. Only the fractions 0 and
    1 are shown as 0 % and 100 %; others that would be rounded to them are shown as "<1 %" and ">99 %".
    """
    if fraction is None or math.isnan(fraction):
        return "–"
    if fraction in (0, 1):
        return f"{100 * fraction:.0f} %"
    count = max(count, 1)
    error = math.sqrt(fraction * (1 - fraction) / count + 1 / count**2)
    digits = max((count >= 1_000) + (count >= 10_000), math.ceil(-2 - math.log10(error)))
    unit = 10**-digits
    shown = round(100 * fraction, digits)
    if shown == 0 < fraction:
        return f"<{unit:g} %"
    if fraction < 1 and shown == 100:
        return f">{100 - unit:g} %"
    return f"{shown:.{digits}f} %"


def nfc(text: str) -> str:
    """The text in Unicode's form NFC, in which equal text has equal characters. macOS writes é in file names as e´."""
    return unicodedata.normalize("NFC", text)


def byte_order_encoding(start: bytes) -> str:
    """The encoding that the byte order mark at the start of a text names; "" without one. Windows writes such marks."""
    marks = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
    return next((encoding for mark, encoding in marks.items() if start.startswith(mark)), "")


def one_line(error: BaseException, length: int = 1000) -> str:
    """The message of an error on one printable line of at most `length` characters; its class if it has no message."""
    return printable(" ".join(str(error).split()))[:length] or type(error).__name__


def choose(option: str, value: str, choices: Iterable[str]) -> str:
    """Return the choice that `value` names. Upper and lower case are equal, and so are _ and -.

    Raises InputError, which lists the choices and names the most similar one, if there is no such choice.
    """
    known = {_normalise(choice): choice for choice in choices}
    if _normalise(value) not in known:
        similar = _most_similar(_normalise(value), known)
        hint = f"; did you mean {known[similar[0]]}?" if similar else ""
        fault = f"no such value {printable(value) or '(empty)'}; choose from {', '.join(known.values())}"
        raise InputError(f"{option}: {fault}{hint}", exit_status=2)
    return known[_normalise(value)]


def suggest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the known name that is most similar, or the first 40 known names."""
    similar = _most_similar(name, known)
    return f"did you mean {similar[0]}?" if similar else f"there are {', '.join([*known][:40])}"


def _normalise(name: str) -> str:
    return name.strip().lower().replace("_", "-")


def _most_similar(name: str, known: Iterable[str]) -> list[str]:
    """The most similar name, or an empty list. The module takes time to import, so it is imported when needed."""
    from difflib import get_close_matches

    return get_close_matches(name, [*known], 1)
