"""An engine with a second engine in reserve."""

import threading
import warnings
from collections.abc import Callable

from inception_v3.errors import InputError
from inception_v3.inference.engines.base import Engine, Outputs, Pixels


class FallbackEngine(Engine):
    """Runs an engine. If it fails, a second engine takes over for good, with a warning.

    `build_second` is called only then. The attributes, `name` included, are those of the engine in use.
    """

    def __init__(self, engine: Engine, build_second: Callable[[], Engine]) -> None:
        self._use(engine)
        self._build_second: Callable[[], Engine] | None = build_second
        self._lock = threading.Lock()

    def _use(self, engine: Engine) -> None:
        self._engine, self.precision, self.device = engine, engine.precision, engine.device
        self.image_size, self.widths = engine.image_size, engine.widths
        self.name = engine.name  # type: ignore[misc]

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
                    self._use(second)
        return self._engine.run(pixels)
