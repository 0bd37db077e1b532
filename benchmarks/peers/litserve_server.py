"""LitServe with an exported ONNX file: JSON with a base64 JPEG in, the top classes out.

python litserve_server.py MODEL PORT MAX_BATCH THREADS
"""

import base64
import io
import sys

import litserve
import numpy as np
import onnxruntime
from PIL import Image

MODEL, PORT, MAX_BATCH, THREADS = sys.argv[1], *map(int, sys.argv[2:])


class Classifier(litserve.LitAPI):
    def setup(self, device):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        self.session = onnxruntime.InferenceSession(MODEL, options, providers=["CPUExecutionProvider"])
        self.input = self.session.get_inputs()[0]

    def decode_request(self, request):
        image = Image.open(io.BytesIO(base64.b64decode(request["images"][0]))).convert("RGB")
        return np.asarray(image.resize(self.input.shape[2:0:-1]))

    def batch(self, inputs):
        return np.stack(inputs)

    def predict(self, pixels):
        return self.session.run(None, {self.input.name: pixels})[0]

    def unbatch(self, output):
        return list(output)

    def encode_response(self, output):
        return {"classes": np.argsort(-output)[:5].tolist()}


if __name__ == "__main__":
    api = Classifier(max_batch_size=MAX_BATCH, batch_timeout=0.005)
    litserve.LitServer(api, accelerator="cpu", workers_per_device=1).run(
        host="127.0.0.1", port=PORT, generate_client_file=False, log_level="error"
    )
