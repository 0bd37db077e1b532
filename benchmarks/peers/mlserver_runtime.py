"""MLServer's runtime for an exported ONNX file: images as base64 in a BYTES tensor, the top classes out."""

import base64
import io

import numpy as np
import onnxruntime
from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput
from PIL import Image


class Runtime(MLModel):
    async def load(self) -> bool:
        given = self.settings.parameters.extra
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = given["threads"]
        self._session = onnxruntime.InferenceSession(given["file"], options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        size = self._input.shape[2:0:-1]
        files = [base64.b64decode(text) for text in payload.inputs[0].data]
        images = [np.asarray(Image.open(io.BytesIO(file)).convert("RGB").resize(size)) for file in files]
        logits = self._session.run(None, {self._input.name: np.stack(images)})[0]
        top = np.argsort(-logits)[:, :5]
        output = ResponseOutput(name="classes", shape=list(top.shape), datatype="INT64", data=top.ravel().tolist())
        return InferenceResponse(model_name=self.name, outputs=[output])
