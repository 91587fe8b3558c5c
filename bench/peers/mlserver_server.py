"""A runtime for MLServer, with its adaptive batching. Run: mlserver start FOLDER, where the settings lie.

Requests are Open Inference V2 in JSON: the only form its HTTP side reads. An image is one base64 element, as its own
codec has it; the numbers of a nested list cost several times as much.
"""

import numpy as np
import onnxruntime
from mlserver import MLModel
from mlserver.codecs import Base64Codec, NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Graph(MLModel):
    async def load(self) -> bool:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(
            self.settings.parameters.uri, options, providers=["CPUExecutionProvider"]
        )
        self.input = self.session.get_inputs()[0].name
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        (given,) = payload.inputs
        if given.datatype == "BYTES":
            images = Base64Codec.decode_input(given)
            rows = np.frombuffer(b"".join(images), np.float32).reshape(len(images), 3, 64, 64)
        else:
            rows = NumpyCodec.decode_input(given)
        prediction, decision = self.session.run(["prediction", "decision"], {self.input: rows})
        return InferenceResponse(
            model_name=self.name,
            outputs=[
                NumpyCodec.encode_output("prediction", prediction),
                NumpyCodec.encode_output("decision", decision.reshape(-1, 1)),
            ],
        )
