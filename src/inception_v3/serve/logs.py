"""The server's log: one JSON object a line on stderr."""

import json
import logging
import sys
import time
from typing import Any

from inception_v3.support.text import one_line
from inception_v3.support.verbosity import verbosity

LEVELS = ("info", "warning", "error")


def log(event: str, level: str = "info", **fields: Any) -> None:
    """Write an event, with the time in UTC. With --quiet, only warnings and errors."""
    if level == "info" and verbosity.quiet:
        return
    now = time.time()
    stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now % 1 * 1000):03}Z"
    line = json.dumps({"time": stamp, "level": level, "event": event} | fields, default=str)  # ASCII, on one line
    sys.stderr.write(line + "\n")


class JsonHandler(logging.Handler):
    """Writes what uvicorn and asyncio log as events of this log."""

    def emit(self, record: logging.LogRecord) -> None:
        level = "error" if record.levelno >= logging.ERROR else "warning"
        error = {"error": one_line(repr(record.exc_info[1]))} if record.exc_info else {}
        log("server", level, message=one_line(record.getMessage()), **error)


def log_libraries() -> None:
    """Send the warnings and errors of uvicorn and asyncio to this log."""
    for name in ("uvicorn.error", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [JsonHandler()], False
        logger.setLevel(logging.WARNING)
