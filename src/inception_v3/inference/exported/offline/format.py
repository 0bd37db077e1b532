"""A page: an .html file with an ONNX network, ONNX Runtime for browsers and the preprocessing in JavaScript."""

import base64
import gzip
import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from inception_v3.inference.engines.base import LOGITS, Precision, Run
from inception_v3.inference.exported.description import Description
from inception_v3.inference.exported.onnx import OnnxFormat
from inception_v3.support.pages import content_hash, program_and_time, render_page
from inception_v3.support.text import printable

if TYPE_CHECKING:
    from inception_v3.inference.exported.offline.runtime import Runtime

HEAD = b'<meta name="generator" content="inception-v3 network in a page">'
DESCRIPTION, NETWORK = b'<script type="application/json" id="description">', b'id="network-data">'
WORKER = ("prepare.js", "worker.js")
SOURCES = Path(__file__).parent


class PageFormat(OnnxFormat):
    """A page that classifies images in a browser. ONNX Runtime checks the network in the written file here."""

    program = "a browser"
    keeps_names = False

    def __init__(
        self, name: str, suffix: str, runtime: "Runtime | None" = None, title: str = "", card: str = ""
    ) -> None:
        super().__init__(name, suffix)
        self._runtime, self._title, self._card = runtime, title, card

    def with_parts(self, out: Path, runtime: Path | None, card: str, report: Callable[[str], None]) -> "PageFormat":
        """This format for the page `out`, which also holds the model's `card` (Markdown) and onnxruntime-web.

        For `runtime` and `report`, and for the errors, see `load_runtime`.
        """
        from inception_v3.inference.exported.offline.runtime import load_runtime

        return PageFormat(self.name, self.suffix, load_runtime(runtime, report), printable(out.stem), card)

    def recognises(self, path: Path, head: bytes) -> bool:
        return HEAD in head

    def read_description(self, path: Path) -> str | None:
        with path.open("rb") as file:
            return next((file.readline().decode() for line in file if line.startswith(DESCRIPTION)), None)

    def write_description(self, file: Path, text: str) -> None:
        before, _, after = file.read_bytes().partition(DESCRIPTION)
        _, _, after = after.partition(b"</script>")
        file.write_bytes(b"%b%b\n%b\n</script>%b" % (before, DESCRIPTION, _in_script(text).encode(), after))

    def weights_checksum(self, path: Path) -> str:
        return ""  # gzip has a checksum of its own

    def constant(self, path: Path, name: str) -> NDArray[np.floating] | None:
        return None

    def save(self, model: Any, file: Path, description: Description) -> None:
        assert self._runtime is not None
        data = {
            "class_names": description.names(),
            "preprocessing": asdict(description.preprocessing),
            "activation": description.settings.output_activation,
            "output": LOGITS,
            "texts": json.loads(_source("texts.json")),
        }
        script = "\n" + _source("page.js")
        page = render_page(
            "inference/exported/offline/page.html",
            {
                "title": self._title,
                "card": _to_html(self._card),
                "licence": _source("LICENSE.onnxruntime"),
                "style": _source("page.css"),
                "script": script,
                "script_hash": content_hash(script),
                "data": _in_script(json.dumps(data | program_and_time())),
                "description": _in_script(description.to_json()),
                "worker": _packed("\n".join([self._runtime.script, *map(_source, WORKER)]).encode()),
                "wasm": _packed(self._runtime.binary),
                "network": _packed(model.SerializeToString()),
            },
        )
        file.write_text(page, "utf-8", newline="\n")

    def run(self, network: Any, precision: Precision, outputs: tuple[str, ...]) -> Run:
        if isinstance(network, Path):
            import onnx

            _, _, after = network.read_bytes().partition(NETWORK)
            packed, _, _ = after.partition(b"</script>")
            network = onnx.load_model_from_string(gzip.decompress(base64.b64decode(packed)))
        return super().run(network, precision, outputs)


def _source(name: str) -> str:
    return (SOURCES / name).read_text("utf-8")


def _packed(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()


def _in_script(text: str) -> str:
    """JSON text for a script element, which a < in a name could end."""
    return text.replace("<", "\\u003c")


def _to_html(card: str) -> str:
    """A model card, Markdown with a header in YAML, as HTML. Its comments are left out, and HTML in it becomes text."""
    from markdown_it import MarkdownIt

    header, mark, body = card.partition("\n---\n")
    text = re.sub(r"<!--.*?-->", "", body if mark and header.startswith("---\n") else card, flags=re.DOTALL)
    return str(MarkdownIt("commonmark", {"html": False}).enable("table").disable(["image"]).render(text))
