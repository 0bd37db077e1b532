"""PyTorch through torch.compile: tens of seconds of compilation for each batch shape, then faster batches."""

import logging
from typing import TYPE_CHECKING, Any, ClassVar

from inception_v3.inference.engines.base import Speeds
from inception_v3.inference.engines.pytorch import PyTorchEngine

if TYPE_CHECKING:
    from inception_v3.inference.engines.graph_module import GraphModule


class CompileEngine(PyTorchEngine):
    """PyTorch with torch.compile, on all of PyTorch's devices. Used only on request, since it starts slowly."""

    name = "compile"
    speed: ClassVar[Speeds] = {}
    prefers_threads = False  # compiled code always uses the number of cores that it was compiled for

    def _prepare(self, module: "GraphModule") -> Any:
        import torch

        # Where CUDA is installed without a GPU, PyTorch logs "No CUDA runtime is found" while it compiles.
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
        return torch.compile(module)
