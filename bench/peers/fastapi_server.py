"""FastAPI as its tutorial has it: an ``async def`` that runs the graph, one request at a time.

Run: MODEL=… KIND=… uvicorn fastapi_server:app. An image comes as raw float32 bytes, the rest as JSON that pydantic
reads. Best settings: uvloop, httptools, no access log.
"""

import os
from typing import Any

import numpy as np
import onnxruntime
from fastapi import FastAPI, Request
from pydantic import BaseModel

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.add_session_config_entry("session.intra_op.allow_spinning", "0")
session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
app = FastAPI()


class Numbers(BaseModel):
    x: list[float]


class Tokens(BaseModel):
    x: list[int]


def answered(name: str, row: Any) -> dict[str, Any]:
    prediction, decision = session.run(["prediction", "decision"], {name: row})
    return {"prediction": prediction[0].tolist(), "decision": int(decision[0])}


if os.environ["KIND"] == "tabular":

    @app.post("/predict")
    async def predict_numbers(given: Numbers):
        return answered("numbers", np.array([given.x]))

elif os.environ["KIND"] == "cnn":

    @app.post("/predict")
    async def predict_image(request: Request):
        image = np.frombuffer(await request.body(), np.float32)
        return answered("image", image.reshape(1, 3, 64, 64))

else:

    @app.post("/predict")
    async def predict_tokens(given: Tokens):
        return answered("tokens", np.array([given.x]))
