"""An engine with a second engine in reserve."""

import threading
import warnings
from collections.abc import Callable
from typing import Any

from inception_v3.errors import InputError
from inception_v3.inference.engines.base import Engine, Outputs, Pixels


class FallbackEngine(Engine):
    """Runs an engine. If it fails, a second engine takes over for good, with a warning.

    `build_second` is called only then. The attributes, `name` included, are those of the engine in use.
    """

    def __init__(self, engine: Engine, build_second: Callable[[], Engine]) -> None:
        self._engine = engine
        self._build_second: Callable[[], Engine] | None = build_second
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def run(self, pixels: Pixels) -> Outputs:
        engine = self._engine
        try:
            return engine.run(pixels)
        except Exception as error:
            with self._lock:
                if engine is self._engine:  # otherwise another thread has replaced it already
                    if self._build_second is None or isinstance(error, InputError):
                        raise
                    second, self._build_second = self._build_second(), None
                    reason = " ".join(str(error).split())[:200]
                    warnings.warn(f"{engine} failed ({reason}); continuing with {second}", stacklevel=2)
                    self._engine = second
        return self._engine.run(pixels)
