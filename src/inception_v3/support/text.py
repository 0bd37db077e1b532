"""Text that is safe to print, and messages about unknown names."""

import codecs
import csv
import io
import json
import math
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

from inception_v3.errors import UNPRINTABLE, InputError, escape
from inception_v3.errors import printable as printable  # most modules import it from here

MAX_LISTED = 40  # names in a message


def text_line(text: str) -> str:
    """Return `text` as one line of a text file in UTF-8: the form of class names, which model files must hold.

    Control characters, line ends and bytes outside UTF-8 are escaped as in Python's string literals.
    """
    if text.isprintable():
        return text
    return "".join(escape(c) if unicodedata.category(c) in UNPRINTABLE else c for c in text)


def to_json(value: object, **options: Any) -> str:
    """Return `value` as JSON in valid UTF-8, in which `json.loads` finds the same strings again.

    Characters that `printable` escapes are escaped as JSON does. So is a byte of a file name outside UTF-8: \\udcff
    stands for the byte 0xff, as in `os.fsdecode`, and `os.fsencode` of the loaded string is the name's bytes.
    """
    text = json.dumps(value, ensure_ascii=False, **options)
    if text.isascii() and "\x7f" not in text:
        return text
    return "".join(c if c == "\n" or printable(c) == c else json.dumps(c)[1:-1] for c in text)


# In CSV and Parquet, the text \udcff stands for a byte of a file name, and \u005c for a backslash before such a text.
_BYTE_ESCAPE = re.compile(r"\\u(005c|d[89a-f][0-9a-f]{2})")


def to_utf8(text: str) -> str:
    """Return text for CSV and Parquet, which need valid UTF-8; `from_utf8` gives the same string again.

    A byte of a file name outside UTF-8 is written as in JSON: \\udcff stands for the byte 0xff. In the rare name that
    has such a text itself, its backslash is written as \\u005c.
    """
    return _BYTE_ESCAPE.sub(r"\\u005cu\1", text).encode("utf-8", "backslashreplace").decode()


def is_utf8(text: str) -> bool:
    """Whether a text, such as a path, has no byte outside UTF-8. Many libraries take no other path."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def csv_record(cells: Iterable[object]) -> str:
    """Return a row of a CSV table with its line end, a line feed. None becomes an empty cell.

    Names are data: they are written as they are, by the rule of `to_utf8`, in quotes if they hold a quote, a comma or a
    line end. Names that a spreadsheet would take for a formula, such as =1+1, are not changed, because a program could
    not find the file by a changed name; import such a table with the columns as text.
    """
    record = io.StringIO()
    # With a line end of \r\n, the writer quotes both of these characters.
    csv.writer(record).writerow([to_utf8(cell) if isinstance(cell, str) else cell for cell in cells])
    return record.getvalue().removesuffix("\r\n") + "\n"


def from_utf8(text: str) -> str:
    """Return the string that `to_utf8` was given."""
    return _BYTE_ESCAPE.sub(lambda escape: chr(int(escape[1], 16)), text)


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


def one_line(error: object, length: int = 1000) -> str:
    """A text or an error on one printable line of at most `length` characters; the class of an empty one."""
    return printable(" ".join(str(error).split()))[:length] or type(error).__name__


def choose(option: str, value: str, choices: Iterable[str]) -> str:
    """Return the choice that `value` names. Upper and lower case are equal, and so are _ and -.

    Raises InputError, which lists the choices and names the most similar one, if there is no such choice. Of more than
    MAX_LISTED choices, it names only the most similar one.
    """
    known = {_normalise(choice): choice for choice in choices}
    if _normalise(value) not in known:
        if len(known) > MAX_LISTED:
            fault = f"no such value {printable(value) or '(empty)'}; {suggest(value.strip(), known.values())}"
            raise InputError(f"{option}: {fault}", exit_status=2)
        similar = _most_similar(_normalise(value), known)
        hint = f"; did you mean {known[similar[0]]}?" if similar else ""
        fault = f"no such value {printable(value) or '(empty)'}; choose from {', '.join(known.values())}"
        raise InputError(f"{option}: {fault}{hint}", exit_status=2)
    return known[_normalise(value)]


def suggest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the most similar known name, or the first MAX_LISTED names."""
    known = [*known]
    similar = _most_similar(name, known)
    more = " ..." if len(known) > MAX_LISTED else ""
    return f"did you mean {similar[0]}?" if similar else f"there are {', '.join(known[:MAX_LISTED])}{more}"


def _normalise(name: str) -> str:
    return name.strip().lower().replace("_", "-")


def _most_similar(name: str, known: Iterable[str]) -> list[str]:
    """The most similar name, or an empty list. The module takes time to import, so it is imported when needed."""
    from difflib import get_close_matches

    return get_close_matches(name, [*known], 1)
