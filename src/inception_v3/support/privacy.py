"""Switches off what other libraries report about their users, and keeps their files out of the user's folders.

`inception_v3/__init__.py` calls `switch_off_telemetry` before the package imports another library, so this module
itself imports almost nothing. docs/privacy.md lists the switches.
"""

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# Environment variables, which processes that are started inherit. A variable that the user has set is kept.
SWITCHES = {
    "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime 1.32: a device ID, a database of events, connections
    "MLFLOW_DISABLE_TELEMETRY": "true",  # MLflow 3: connections
    "WANDB_ERROR_REPORTING": "false",  # W&B: reports of its own errors; its runs are sent according to its settings
    "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub, datasets, timm: installed libraries, with each download
}
# OpenVINO and NNCF import it if it is installed, and have no other switch. It stores a client ID and connects.
TELEMETRY_PACKAGE = "openvino_telemetry"
# Variables that name the folder of a library for its own files, with the folder in our cache.
FOLDERS = {"MPLCONFIGDIR": "matplotlib", "TORCHINDUCTOR_CACHE_DIR": "torchinductor", "HF_DATASETS_CACHE": "datasets"}


def switch_off_telemetry() -> None:
    """Switch off the telemetry of every library. Call it before they are imported."""
    for name, value in SWITCHES.items():
        os.environ.setdefault(name, value)
    sys.modules.setdefault(TELEMETRY_PACKAGE, None)  # type: ignore[arg-type]  # importing it raises ImportError


def redirect_files() -> None:
    """Let libraries write to this package's cache folder, or if that is read-only, to a folder deleted at the exit.

    Only for a process that runs a command. In a user's own process, the user may use the same libraries.
    """
    import atexit
    import shutil
    import tempfile
    from pathlib import Path

    from inception_v3.support.files import user_cache

    folder = user_cache()
    if folder is None or not _is_writable(folder):
        # Libraries create it if they need it. Its name is random, so that nobody else can create it before.
        folder = Path(tempfile.gettempdir(), f"inception-v3-{os.urandom(8).hex()}")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name, part in FOLDERS.items():
        if name != "HF_DATASETS_CACHE" or "HF_HOME" not in os.environ:  # HF_HOME moves that folder too
            os.environ.setdefault(name, str(folder / part))


def _is_writable(folder: "Path") -> bool:
    """Whether a folder, or if it does not exist, the first existing folder above it, can be written."""
    existing = next(each for each in (folder, *folder.parents) if os.path.exists(each))  # noqa: PTH110 (never raises)
    return os.access(existing, os.W_OK | os.X_OK)
