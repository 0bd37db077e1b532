"""The fixtures that start a server. A plugin and not a conftest.py, whose name would hide tests/conftest.py.

The imports are inside the fixtures, because every test loads this plugin.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from serving import Running

    from inception_v3.serve.limits import Limits


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> "Iterator[Callable[..., Running]]":
    """A function that starts a server with these models, limits, token and trusted proxies."""
    from serving import NAMES, GatedEngine, opened, running

    from inception_v3.serve import models
    from inception_v3.serve.limits import Limits

    with ExitStack() as stack:

        def start_server(
            *names: str,
            limits: "Limits | None" = None,
            token: str | None = None,
            trusted_proxies: tuple[str, ...] = (),
        ) -> "Running":
            engine = GatedEngine()
            monkeypatch.setattr(models, "open_engine", lambda *_, **__: opened(engine, NAMES))
            names = names or ("pets=/dev/null",)
            return stack.enter_context(running(names, engine, limits or Limits(), token, trusted_proxies))

        yield start_server


@pytest.fixture(scope="module")
def pets() -> "Iterator[Running]":
    """A server for tests that change nothing in it."""
    from serving import NAMES, GatedEngine, opened, running

    from inception_v3.serve import models
    from inception_v3.serve.limits import Limits

    engine = GatedEngine()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "open_engine", lambda *_, **__: opened(engine, NAMES))
        with running(("pets=/dev/null",), engine, Limits(), None) as server:
            yield server
