"""How fast an exported network runs on this CPU: timed once, by `export` or before `predict` chooses among several."""

import hashlib
import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from statistics import median

import numpy as np

from inception_v3.errors import InputError
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.inference.engines.base import Engine, Pixels, Run
from inception_v3.inference.exported.description import Description, Speed
from inception_v3.support.cpu import cpu_name
from inception_v3.support.files import cache_folder, write_text
from inception_v3.support.json_values import read_json

ROUNDS, BATCH = 3, 16


def time_run(run: Run, preprocessing: Preprocessing) -> Speed:
    """Time a network with one image and with batches of 16, on noise; the median of three rounds after a warm-up."""
    shape = (BATCH, *preprocessing.image_size, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    rates = {}
    for batch_size in (1, BATCH):
        run(pixels[:batch_size])
        rates[batch_size] = batch_size / median(_seconds(run, pixels[:batch_size]) for _ in range(ROUNDS))
    return Speed(cpu_name(), rates[1], rates[BATCH])


def _seconds(run: Run, pixels: Pixels) -> float:
    started = time.perf_counter()
    run(pixels)
    return time.perf_counter() - started


def speed_here(engine: type[Engine], description: Description, open_engine: Callable[[], Engine]) -> Speed:
    """The speed of an exported network on this CPU: from its description, from an earlier timing, or timed now.

    The timing is kept in the cache folder `speeds`, if it can be written. Raises what `open_engine` and the engine
    raise if the network cannot run.
    """
    if (recorded := description.speed) is not None and recorded.cpu == cpu_name():
        return recorded
    network = [description.precision, description.weights, description.numbers, description.preprocessing.image_size]
    key = json.dumps([cpu_name(), engine.version(), *network])
    name = f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
    with suppress(InputError):  # not timed yet, or no cache folder
        timed: Speed = read_json(cache_folder("speeds") / name, Speed)
        return replace(timed, cpu=cpu_name())
    speed = time_run(open_engine().run, description.preprocessing)
    with suppress(OSError, InputError):  # the cache cannot be written: time it again next time
        write_text(cache_folder("speeds") / name, json.dumps(asdict(speed)))
    return speed
