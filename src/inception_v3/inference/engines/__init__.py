"""Engines: what runs the network. All take the same pixels and give the same answers.

    opened = open_engine("exported/model.onnx")
    logits, features = opened.engine.predict(pixels)

graph.py is the network as they get it; choose.py opens one. ONNX Runtime and OpenVINO need no PyTorch.
"""

from inception_v3.inference.engines.base import Engine as Engine
from inception_v3.inference.engines.base import Precision as Precision

__all__ = ["Engine", "Precision"]
