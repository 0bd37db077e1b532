"""A real server on a free port, with FakeEngine for every model: class k for an image of gray 2k."""

import asyncio
import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import numpy as np
from PIL import Image

from fake_engine import CLASSES, SIZE, FakeEngine
from inception_v3.inference.choose import OpenedModel
from inception_v3.inference.engines.base import FEATURES, LOGITS
from inception_v3.inference.exported.description import Description
from inception_v3.network.settings import Settings
from inception_v3.serve import models
from inception_v3.serve.application import Server
from inception_v3.serve.limits import Limits
from inception_v3.serve.server import Place, Uvicorn, listen

NAMES = [f"class {number}" for number in range(CLASSES)]


class GatedEngine(FakeEngine):
    """FakeEngine, which waits at a gate in each batch, and notes which classes were in it."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.entered = threading.Event(), threading.Semaphore(0)
        self.gate.set()
        self.failures: list[Exception] = []

    def run(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        self.entered.release()
        assert self.gate.wait(20)
        if self.failures:
            raise self.failures.pop()
        return super().run(pixels)


@dataclass
class Running:
    """A running server: its address, its engine, and a client."""

    url: str
    port: int
    engine: GatedEngine
    server: Server
    client: httpx.Client

    def images(self, *classes: int) -> list[tuple[str, tuple[str, bytes, str]]]:
        """The files of a form, one for each class."""
        return [("image", (f"{number}.png", png(number), "image/png")) for number in classes]


def png(number: int, size: tuple[int, int] = (9, 9)) -> bytes:
    """An image of class `number`."""
    file = io.BytesIO()
    Image.new("RGB", size, (2 * number,) * 3).save(file, "PNG")
    return file.getvalue()


def opened(engine: FakeEngine, names: list[str] | None = None) -> OpenedModel:
    description = Description(Settings(num_classes=CLASSES), SIZE, names, (LOGITS, FEATURES), "fp32", False, "")
    return OpenedModel(engine, description, models.Path(os.devnull), "requested")


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


@contextmanager
def running(
    names: tuple[str, ...],
    engine: GatedEngine,
    limits: Limits,
    token: str | None,
    trusted_proxies: tuple[str, ...] = (),
) -> Iterator[Running]:
    served = models.Models(names, models.OpenOptions(batch_size=8), limits.queue)
    served.load()
    engine.batches.clear()
    while engine.entered.acquire(blocking=False):
        pass
    server = Server(served, limits, token)
    uvicorn = Uvicorn(server, trusted_proxies)
    with listen(Place(port=0)) as listening:
        port = listening.getsockname()[1]
        thread = threading.Thread(target=lambda: asyncio.run(uvicorn.serve(sockets=[listening])), daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, timeout=20) as client:
            yield Running(url, port, engine, server, client)
        engine.gate.set()
        uvicorn.should_exit = True
        thread.join(20)
    server.close()
    assert not thread.is_alive()
