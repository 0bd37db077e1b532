"""Renders HTML pages from templates in this package."""

import base64
import hashlib
from datetime import UTC, datetime
from typing import Any

from inception_v3 import __version__
from inception_v3.support.text import percent


def render_page(template: str, values: dict[str, Any]) -> str:
    """Render a template with escaped values.

    Args:
        template: the template's path in this package. It extends reports/page.html.
        values: the variables of the template; `program` and `written` (the time) are added. The filter
            `percent(count)` formats a fraction of so many images.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("inception_v3", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda *values: percent(*values).replace(" ", "\N{NO-BREAK SPACE}")
    return environment.get_template(template).render(**program_and_time(), **values)


def content_hash(text: str) -> str:
    """The hash of a script or style by which a Content-Security-Policy allows it, such as sha256-7v5w...="""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def program_and_time() -> dict[str, str]:
    """The variables `program` and `written` of a page: this program with its version, and the time."""
    return {"program": f"inception-v3 {__version__}", "written": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"}
