"""A model repository for NVIDIA's Triton Inference Server."""

from pathlib import Path

from inception_v3.inference.engines.base import LOGITS, PIXELS_INPUT
from inception_v3.inference.exported.description import Description
from inception_v3.support.files import write_text

_CONFIG = """name: "inception_v3"
backend: "onnxruntime"
max_batch_size: 64
input [
  {{
    name: "{name}"
    data_type: TYPE_UINT8
    dims: [ {height}, {width}, 3 ]
  }}
]
output [
{outputs}
]
dynamic_batching {{ }}
"""


def write_triton(repository: Path, description: Description) -> None:
    """Write config.pbtxt and labels.txt beside inception_v3/1/model.onnx, which must return logits and features."""
    height, width = (-1, -1) if description.any_size else description.preprocessing.image_size
    # Triton compares the channels with those of the file.
    channels = {point.name: point.channels for point in description.settings.end_points()}
    outputs = []
    for name in description.outputs:
        labels = '    label_filename: "labels.txt"\n' if name == LOGITS else ""
        fields = f'    name: "{name}"\n    data_type: TYPE_FP32\n    dims: [ {channels[name]} ]\n'
        outputs.append(f"  {{\n{fields}{labels}  }}")
    config = _CONFIG.format(name=PIXELS_INPUT, height=height, width=width, outputs=",\n".join(outputs))
    class_names = "".join(" ".join(name.split()) + "\n" for name in description.names())
    for file_name, text in (("labels.txt", class_names), ("config.pbtxt", config)):
        write_text(repository / "inception_v3" / file_name, text)
