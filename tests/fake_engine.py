"""An engine for tests, without PyTorch. Its top class shows the image that it got: class k for an image of gray 2k."""

import os
import time
from pathlib import Path

import numpy as np
from PIL import Image

from inception_v3.images.preprocessing import Preprocessing
from inception_v3.inference.choose import OpenedModel
from inception_v3.inference.engines.base import FEATURES, LOGITS, Engine, Outputs, Pixels
from inception_v3.inference.exported.description import Description
from inception_v3.network.settings import Settings

CLASSES = 128
SIZE = Preprocessing((8, 8))


class FakeEngine(Engine):
    """Takes `seconds` for each batch after the `quick` first ones, logs the batch size to a file, and fails after
    `fails_at` images."""

    name, precision, device, callers = "fake", "fp32", "cpu", 1
    image_size, widths = (8, 8), {LOGITS: CLASSES, FEATURES: 2048}

    def __init__(
        self, seconds: float = 0.0, log: Path | None = None, fails_at: int | None = None, quick: int = 0
    ) -> None:
        self.seconds, self.log, self.fails_at, self.quick, self.batches = seconds, log, fails_at, quick, []

    def run(self, pixels: Pixels) -> Outputs:
        assert pixels.dtype == np.uint8
        assert pixels.shape[1:] == (8, 8, 3)
        assert pixels.flags.c_contiguous
        self.batches.append(len(pixels))
        if self.fails_at is not None and sum(self.batches) > self.fails_at:
            raise RuntimeError("the device is\non fire")
        if self.log:
            with self.log.open("a") as log:
                log.write(f"{len(pixels)}\n")
        time.sleep(self.seconds if len(self.batches) > self.quick else 0)
        gray = pixels[:, 0, 0, :1].astype(np.float32)
        logits = -np.abs(gray - 2 * np.arange(CLASSES, dtype=np.float32))
        return {LOGITS: logits, FEATURES: np.zeros((len(pixels), 2048), np.float32)}


def save(path: Path, number: int) -> Path:
    """Save an image that FakeEngine puts in class `number`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (9, 9), (2 * number,) * 3).save(path)
    return path


def instead_of_a_network(
    seconds: float,
    log: Path | None = None,
    fails_at: int | None = None,
    rows: int = 5,
    quick: int = 0,
    file: Path = Path(os.devnull),
) -> None:
    """Make `inception-v3 predict` in this process run FakeEngine for every MODEL, and write small Parquet files."""
    from inception_v3.inference import choose, results

    description = Description(Settings(num_classes=CLASSES), SIZE, None, (LOGITS, FEATURES), "fp32", False, "")
    engine = FakeEngine(seconds, log, fails_at, quick)
    choose.open_engine = lambda *_, **__: OpenedModel(engine, description, file, "requested")
    results.ROWS_PER_PART = rows
