"""Networks that train in a blink, and rows that they can learn: for the tests of deep models."""

from typing import Any

import numpy as np
import torch

from everloop.measure.tensors import Tensors
from everloop.spec.torch import Torch
from everloop.train.function import TrainContext
from everloop.train.torch import fit
from everloop.train.torch_model import TorchModel

torch.set_num_threads(1)

HEAD = '''"""Will a made parcel come late? A network says it."""

from datetime import timedelta as td

import torch

import everloop as el


class Net(torch.nn.Module):
    def __init__(self, inputs, outputs, hidden=16):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(inputs, hidden), torch.nn.ReLU(), torch.nn.Dropout(0.1), torch.nn.Linear(hidden, outputs)
        )

    def forward(self, columns):
        return self.layers(columns)


def own(samples, params, context):
    torch.manual_seed(context.seed)
    net = Net(samples.X.shape[1], 2)
    rows, truth = torch.from_numpy(samples.X), torch.from_numpy(samples.y)
    optimiser = torch.optim.Adam(net.parameters(), lr=0.05)
    for epoch in range(30):
        loss = torch.nn.functional.cross_entropy(net(rows), truth)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        context.progress({"epoch": epoch, "loss": float(loss.detach())})
    return net


own.tensors = True


def features(row):
    return {"distance": row.distance / 1000, "carrier": row.carrier, "hour": row.sent.dt.hour()}


'''
"""Stands above a `small_loop.SmallLoop` that declares ``train="el.Torch(Net, …)"``."""


class Net(torch.nn.Module):  # type: ignore[misc]
    """Two layers, with dropout, so that a wrong seed shows."""

    def __init__(self, inputs: int, outputs: int, hidden: int = 8, dropout: float = 0.1) -> None:
        super().__init__()
        self.first = torch.nn.Linear(inputs, hidden)
        self.dropout = torch.nn.Dropout(dropout)
        self.last = torch.nn.Linear(hidden, outputs)

    def forward(self, columns: torch.Tensor) -> Any:
        return self.last(self.dropout(torch.relu(self.first(columns))))


def rows(count: int = 240, width: int = 4, *, seed: int = 0) -> tuple[Tensors, Any]:
    """Tensors and the class of each row: whether the first two columns together are positive."""
    columns = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    return Tensors({"columns": columns}), (columns[:, 0] + columns[:, 1] > 0).astype(np.int64)


def declared(model: Any = Net, **changes: Any) -> Torch:
    return Torch(model, **{"epochs": 3, "batch_size": 32, "learning_rate": 0.02, **changes})


def fitted(torch_declared: Torch, inputs: Tensors, target: Any, **changes: Any) -> TorchModel:
    context = changes.pop("context", TrainContext(seed=1))
    return fit(
        torch_declared,
        inputs,
        target,
        **{"task": "binary", "classes": 2, "weights": None, "context": context, **changes},
    )
