"""Engines: what runs the network. All take the same pixels and give the same answers.

    engine = engines.open_engine("exported/model.onnx")
    logits, features = engine.predict(pixels)

graph.py is the network as they get it. Neither this package nor its ONNX Runtime and OpenVINO need PyTorch.
"""

from inception_v3.engines.base import Engine as Engine
from inception_v3.engines.base import Precision as Precision

__all__ = ["Engine", "Precision"]
