"""BentoML with its adaptive batching. Run: MODEL=… KIND=… LARGEST=… bentoml serve bentoml_server:Graph.

A batchable call takes a list of rows; each request brings one. An image comes as base64 of its float32 bytes.
"""

import base64
import os

import bentoml
import numpy as np
import onnxruntime

KIND = os.environ["KIND"]
batchable = bentoml.api(
    route="/predict", batchable=True, batch_dim=0, max_batch_size=int(os.environ["LARGEST"]), max_latency_ms=10_000
)


@bentoml.service(
    workers=int(os.environ["WORKERS"]),
    traffic={"timeout": 60},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
)
class Graph:
    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])

    if KIND == "cnn":

        @batchable
        def predict(self, x: list[str]) -> np.ndarray:
            images = b"".join(map(base64.b64decode, x))
            rows = np.frombuffer(images, np.float32).reshape(len(x), 3, 64, 64)
            return self.session.run(["prediction"], {"image": rows})[0]

    elif KIND == "tabular":

        @batchable
        def predict(self, x: np.ndarray) -> np.ndarray:
            return self.session.run(["prediction"], {"numbers": x.astype(np.float64, copy=False)})[0]

    else:

        @batchable
        def predict(self, x: np.ndarray) -> np.ndarray:
            return self.session.run(["prediction"], {"tokens": x.astype(np.int64, copy=False)})[0]
