"""Core ML: an .mlpackage folder with the description in the user-defined metadata of its specification."""

import io
import logging
import warnings
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from inception_v3.errors import InputError
from inception_v3.inference.engines.base import PIXELS_INPUT, Precision
from inception_v3.inference.engines.graph import Graph
from inception_v3.inference.exported.base import ExportFormat, find_description
from inception_v3.inference.exported.description import KEY, MAX_BYTES, Description
from inception_v3.support.protocol_buffers import read_messages
from inception_v3.support.system_errors import is_file

SPECIFICATION = Path("Data", "com.apple.CoreML", "model.mlmodel")  # in the folder
METADATA_PATH = (2, 100, 100)  # Model.description.metadata.userDefined, field numbers of Apple's Model.proto


class CoremlFormat(ExportFormat):
    """A package for macOS 13 or iOS 16 that takes an RGB image. It cannot be checked: only Apple's systems run it."""

    program = "Apple's Core ML"
    packages = ("coremltools",)
    extra = "coreml"
    is_folder = True
    runs_here = False

    def recognises(self, path: Path, head: bytes) -> bool:
        return path.suffix == self.suffix and is_file(path / SPECIFICATION)

    def read_description(self, path: Path) -> str | None:
        specification = path / SPECIFICATION
        if specification.stat().st_size > MAX_BYTES:
            raise ValueError("larger than such a file can be")
        messages = [memoryview(specification.read_bytes())]
        for number in METADATA_PATH:
            messages = [inner for message in messages for inner in read_messages(message, number)]
        return find_description(messages)

    def write_description(self, file: Path, text: str) -> None:
        """Do nothing: `save` writes the description, because no check follows it."""

    def convert(self, graph: Graph, precision: Precision = "fp32") -> Any:
        if graph.image_size is None:
            raise InputError("a Core ML network takes images of one size; leave out --any-size", exit_status=2)
        logging.getLogger("coremltools").setLevel(logging.ERROR)  # it warns about newer versions of PyTorch
        import coremltools as tools
        import torch

        from inception_v3.inference.engines.graph_module import GraphModule

        class FromImages(GraphModule):
            """The network for Core ML's images (1, 3, H, W)."""

            def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
                return super().forward(pixels.permute(0, 2, 3, 1))

        shape = (1, 3, *graph.image_size)
        # redirect_stderr hides coremltools' progress bars
        with torch.no_grad(), warnings.catch_warnings(action="ignore"), redirect_stderr(io.StringIO()):
            program = torch.export.export(FromImages(graph).eval(), (torch.zeros(shape),)).run_decompositions({})
            return tools.convert(
                program,
                inputs=[tools.ImageType(name=PIXELS_INPUT, shape=shape, color_layout=tools.colorlayout.RGB)],
                outputs=[tools.TensorType(name=name.replace("/", "_")) for name in graph.outputs],
                compute_precision=tools.precision.FLOAT32,
                minimum_deployment_target=tools.target.macOS13,
            )

    def save(self, model: Any, file: Path, description: Description) -> None:
        model.short_description = "Inception V3"
        model.user_defined_metadata[KEY] = description.to_json()
        with warnings.catch_warnings(action="ignore"), redirect_stderr(io.StringIO()):
            model.save(str(file))
