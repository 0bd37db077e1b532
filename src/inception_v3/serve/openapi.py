"""The description of the server for other programs (OpenAPI 3.1), and a page that shows it."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inception_v3.serve.limits import Limits
    from inception_v3.serve.models import Models


def openapi(models: "Models", limits: "Limits", has_token: bool) -> dict[str, Any]:
    return {}


def docs_page(description: dict[str, Any]) -> tuple[str, str]:
    return "", "default-src 'none'"
