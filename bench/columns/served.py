"""The champion that a replay ends with, behind a real server: how long an answer takes, and how far it is from the network's own.

Requests are of one row each, one after another over one connection, the same ones in several rounds: a quantile is the
median of those of the rounds, so that one pause of a shared machine does not stand for all. The network is rebuilt from
what its fit left, in the framework that trained it, and asked with the same raw rows.
"""

import base64
import dataclasses
import time
from typing import Any

import numpy as np
import polars as pl
import torch

from everloop.data.features import render
from everloop.loop.installation import Installation
from everloop.loop.server import ServingProcess
from everloop.measure import encode
from everloop.package.build import columns_of
from everloop.store import packages
from everloop.store.ledger import candidates, releases, versions
from everloop.testing.serving import Client
from everloop.train import champion as champions

ASKED, ROUNDS = 400, 5
COLD = 20
REFUSALS = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answered:
    milliseconds: np.ndarray
    """[rounds, requests], first byte sent to last byte read."""
    difference: float | None = None
    """The largest between a served probability and the network's own; None where no network answered."""
    flipped: int | None = None
    rows: int = 0
    """Of one round."""
    refused: int = 0
    """With 503, and asked again: the answer would not have come within the declared p99."""

    def p(self, share: float) -> float:
        return float(np.median(np.quantile(self.milliseconds, share, axis=1)))


def asked(installation: Installation, rows: pl.DataFrame, network: Any = None) -> Answered:
    """``network``: a module as its fit began, before it gets its weights."""
    with installation.ledger.read() as connection:
        champion = releases.get(connection, installation.name).champion
        assert champion is not None
        version = versions.get(connection, installation.name, champion)
        made = candidates.of(connection, installation.name)
    home = installation.home
    signature = packages.open_package(
        home.packages / version.package, packages.trusted_keys(home.keys)
    ).manifest.signature
    names = [*(each.name for each in signature.inputs), *(each.name for each in signature.tensors)]
    rows = rows.tail(ASKED)
    bodies = [
        {name: base64.b64encode(value).decode() if isinstance(value, bytes) else value for name, value in each.items()}
        for each in rows.select(names).to_dicts()
    ]
    took, answers, refused = [], [], 0
    with ServingProcess.start(home, [installation.name], bound=True) as server, Client(server.port) as client:
        for body in bodies[:COLD]:
            client.post(f"/predict/{installation.name}", body)
        for number, body in enumerate(bodies * ROUNDS):
            begin = time.perf_counter()
            status, answer = client.post(f"/predict/{installation.name}", body)
            took.append(1000 * (time.perf_counter() - begin))
            for _ in range(REFUSALS):  # a crowded machine: the declared p99 could not be held, and it says so
                if status != 503:
                    break
                refused += 1
                time.sleep(0.1)
                status, answer = client.post(f"/predict/{installation.name}", body)
            assert status == 200, answer
            if number < len(bodies):
                answers.append(answer)
    milliseconds = np.array(took).reshape(ROUNDS, len(bodies))
    if network is None:
        return Answered(milliseconds=milliseconds, rows=len(rows), refused=refused)
    (digest,) = {each.digest for each in made if (each.snapshot, each.score) == (version.snapshot, version.score)}
    left = champions.read(home.candidates / digest)
    assert left is not None
    own = _own(installation, left, network, rows)
    said = np.array([[each["probability"][_shown(value)] for value in signature.classes] for each in answers])
    return Answered(
        milliseconds=milliseconds, rows=len(rows), difference=float(np.abs(own - said).max()),
        flipped=int((own.argmax(axis=1) != said.argmax(axis=1)).sum()),
        refused=refused,
    )  # fmt: skip


def _own(installation: Installation, left: champions.Champion, network: Any, rows: pl.DataFrame) -> np.ndarray:
    """What the network itself says, in the framework: probabilities [rows, classes]."""
    resolved = installation.resolved
    features = columns_of(render(resolved.features, rows, resolved.schema))
    inputs = encode.inputs(left.encoding, features).batch(np.arange(len(rows)))  # type: ignore[union-attr]
    network.load_state_dict(left.state())
    network.eval()
    with torch.no_grad():
        outputs = network(*(torch.from_numpy(each) for each in inputs.values())).double()
    if outputs.shape[1] == 1:
        positive = torch.sigmoid(outputs)
        return torch.cat([1 - positive, positive], dim=1).numpy()  # type: ignore[no-any-return]
    return torch.softmax(outputs, dim=1).numpy()  # type: ignore[no-any-return]


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
