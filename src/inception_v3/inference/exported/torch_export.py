"""torch.export: a .pt2 file with the description among its extra files."""

import io
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from inception_v3.inference.engines.base import Outputs, Pixels, Precision, Run
from inception_v3.inference.engines.graph import Graph
from inception_v3.inference.exported.base import ExportFormat
from inception_v3.inference.exported.description import KEY, MAX_BYTES, Description
from inception_v3.support.files import path_for_library


class TorchExportFormat(ExportFormat):
    """A program of torch.export. PyTorch checks the file."""

    program = "torch.export.load"
    precisions = ("fp32", "bf16", "fp16")

    def recognises(self, path: Path, head: bytes) -> bool:
        return path.suffix == self.suffix and head[:4] == b"PK\x03\x04"  # the file is a zip archive

    def read_description(self, path: Path) -> str | None:
        with zipfile.ZipFile(path) as archive:
            name = next((name for name in archive.namelist() if name.endswith(f"extra/{KEY}.json")), None)
            if name is None:
                return None
            if archive.getinfo(name).file_size > MAX_BYTES:
                raise ValueError("its description is larger than it can be")
            return archive.read(name).decode("utf-8")

    def write_description(self, file: Path, text: str) -> None:
        with zipfile.ZipFile(file, "a") as archive:  # where torch.export.save puts its extra_files
            root = archive.namelist()[0].split("/")[0]
            archive.writestr(f"{root}/extra/{KEY}.json", text)

    def convert(self, graph: Graph, precision: Precision = "fp32") -> Any:
        import torch

        from inception_v3.inference.engines.graph_module import DTYPES, GraphModule

        height, width = graph.image_size or (299, 299)  # a network for any size is traced at this size
        example = torch.zeros(2, height, width, 3, dtype=torch.uint8)
        dynamic = dict.fromkeys((0,) if graph.image_size else (0, 1, 2), torch.export.Dim.AUTO)
        # The warnings are about memory layouts; the file is checked after it is written.
        with torch.no_grad(), warnings.catch_warnings(action="ignore"):
            module = GraphModule(graph, DTYPES[precision])
            return torch.export.export(module, (example,), dynamic_shapes={"pixels": dynamic})

    def save(self, model: Any, file: Path, description: Description) -> None:
        import torch

        buffer = io.BytesIO()  # PyTorch aborts the process if the disk is full
        with warnings.catch_warnings(action="ignore"):
            torch.export.save(model, buffer)
        file.write_bytes(buffer.getbuffer())

    def run(self, network: Any, precision: Precision, outputs: tuple[str, ...]) -> Run:
        import torch

        with path_for_library(network) as file:
            module = torch.export.load(file).module()

        def run(pixels: Pixels) -> Outputs:
            with torch.no_grad():
                tensors = module(torch.from_numpy(np.ascontiguousarray(pixels)))
            return {name: tensor.numpy() for name, tensor in zip(outputs, tensors, strict=True)}

        return run
