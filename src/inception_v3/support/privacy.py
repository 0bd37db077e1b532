"""Switches off what other libraries report about their users, and keeps their files out of the user's folders.

`inception_v3/__init__.py` calls `switch_off_telemetry`, so every import of this package has it done before the package
imports another library. docs/privacy.md lists the switches.
"""

import os
import sys

# Environment variables, which processes that are started inherit. A variable that the user has set is kept.
SWITCHES = {
    "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime 1.32: a device ID, a database of events, connections
    "MLFLOW_DISABLE_TELEMETRY": "true",  # MLflow 3: connections
    "WANDB_ERROR_REPORTING": "false",  # W&B: reports of its own errors; its runs are sent as its settings say
    "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub, datasets, timm: installed libraries, with each download
}
# OpenVINO and NNCF import it if it is installed, and have no other switch. It stores a client ID and connects.
TELEMETRY_PACKAGE = "openvino_telemetry"
# Variables that name the folder for files that a library creates when it is imported, with our folder in the cache.
FOLDERS = {"MPLCONFIGDIR": "matplotlib", "TORCHINDUCTOR_CACHE_DIR": "torchinductor"}


def switch_off_telemetry() -> None:
    """Switch off the telemetry of every library. Call it before they are imported."""
    for name, value in SWITCHES.items():
        os.environ.setdefault(name, value)
    sys.modules.setdefault(TELEMETRY_PACKAGE, None)  # type: ignore[arg-type]  # importing it raises ImportError


def redirect_files() -> None:
    """Let libraries write to this package's cache folder. If that is read-only, they use the folder for temporary files.

    For a process that runs a command. Elsewhere the process belongs to the user, who may use the same libraries.
    """
    import logging

    from inception_v3.errors import InputError
    from inception_v3.support.files import cache_folder

    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns if it uses the folder for temporary files
    try:
        folders = {name: cache_folder(folder) for name, folder in FOLDERS.items()}
    except InputError:  # no home folder
        return
    for name, folder in folders.items():
        existing = next(each for each in (folder, *folder.parents) if os.path.exists(each))  # noqa: PTH110 (never raises)
        if os.access(existing, os.W_OK | os.X_OK):
            os.environ.setdefault(name, str(folder))
