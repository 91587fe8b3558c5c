"""LitServe with batching. Run: MODEL=… KIND=… PORT=… LARGEST=… python litserve_server.py.

An image comes as base64 of its float32 bytes inside JSON: a third of the work of a nested list.
"""

import base64
import os
from typing import Any

import litserve
import numpy as np
import onnxruntime

KIND = os.environ["KIND"]
WORKERS = int(os.environ["WORKERS"])
NAME = {"tabular": "numbers", "cnn": "image", "transformer": "tokens"}[KIND]


class Graph(litserve.LitAPI):
    def setup(self, device: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])

    def decode_request(self, request: dict[str, Any]) -> np.ndarray:
        if KIND == "cnn":
            return np.frombuffer(base64.b64decode(request["x"]), np.float32).reshape(3, 64, 64)
        return np.array(request["x"])

    def batch(self, inputs: list[np.ndarray]) -> np.ndarray:
        return np.stack(inputs)

    def predict(self, x: np.ndarray) -> list[tuple[np.ndarray, int]]:
        prediction, decision = self.session.run(["prediction", "decision"], {NAME: x})
        return list(zip(prediction, decision, strict=True))

    def unbatch(self, output: list[tuple[np.ndarray, int]]) -> list[tuple[np.ndarray, int]]:
        return output

    def encode_response(self, output: tuple[np.ndarray, int]) -> dict[str, Any]:
        return {"prediction": output[0].tolist(), "decision": int(output[1])}


if __name__ == "__main__":
    api = Graph(max_batch_size=int(os.environ["LARGEST"]), batch_timeout=0.001)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=WORKERS, timeout=60)
    server.run(
        host="127.0.0.1", port=int(os.environ["PORT"]), num_api_servers=WORKERS, generate_client_file=False,
        log_level="warning",
    )  # fmt: skip
