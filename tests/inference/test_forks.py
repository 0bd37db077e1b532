"""A process that is forked after an engine was opened: it says so, and never waits for ever."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXPORTED = Path(__file__).parents[1] / "version_0_1"
SCRIPT = """
import os, signal, sys
import numpy as np
from inception_v3 import Predictor

images = [np.full((80, 80, 3), value, np.uint8) for value in range(20)]
predictor = Predictor(sys.argv[1], sys.argv[2])
expected = [each.classes for each in predictor(images)]
for use in (lambda: list(predictor(images)), lambda: Predictor(sys.argv[1], sys.argv[2])):
    if os.fork() == 0:
        signal.alarm(20)  # ends a process that hangs
        try:
            use()
        except Exception as error:
            print(type(error).__name__, error)
        sys.exit(3)  # with all of Python's cleanup
    assert os.waitstatus_to_exitcode(os.wait()[1]) == 3
assert [each.classes for each in predictor(images)] == expected
"""


@pytest.mark.parametrize(
    ("model", "engine"),
    [
        ("run.onnx", "onnxruntime"),
        ("run.xml", "openvino"),
        pytest.param("run", "pytorch", marks=pytest.mark.slow),
        pytest.param("run", "ncnn", marks=pytest.mark.slow),
    ],
)
def test_a_forked_process_is_refused_with_the_remedy(model: str, engine: str) -> None:
    pytest.importorskip(engine.replace("pytorch", "torch"))
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, EXPORTED / model, engine],
        capture_output=True,
        text=True,
        timeout=100,
        env=environment | {"ORT_DISABLE_TELEMETRY": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("InputError this process was forked after an engine was opened") for line in lines)
    assert all('multiprocessing.get_context("spawn")' in line for line in lines)
