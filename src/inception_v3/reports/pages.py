"""Pages to look at, one file each: what the reports of `evaluate` and of `fidelity` share.

A page asks nothing of the network: pictures are inside, and its Content-Security-Policy forbids the rest. Names come
from outside; the template engine escapes every one.
"""

import base64
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from inception_v3 import __version__
from inception_v3.support.files import atomic_write


def write_page(
    file: Path, template: str, values: dict[str, Any], filters: dict[str, Callable[..., str]] | None = None
) -> None:
    """Fill a template of this package, which extends page.html. Raises InputError where the page cannot be written."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("inception_v3", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters or {})
    written = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    page = environment.get_template(template).render(program=f"inception-v3 {__version__}", written=written, **values)
    with atomic_write(file) as temporary:
        temporary.write_bytes(page.encode("utf-8", "backslashreplace"))  # file names may hold bytes outside UTF-8


def data_uri(kind: str, content: bytes) -> str:
    """A picture of that media type, to stand in a page itself."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
