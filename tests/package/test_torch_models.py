"""Networks as graphs: what torch answers and what the graph answers, on real tensors, one row and many."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import everloop as el
from everloop.errors import ConversionRefused, TrainError
from everloop.measure.tensors import Tensors
from everloop.package.torch_models import exported
from everloop.train.files import digest
from everloop.train.function import TrainContext
from tiny_nets import declared, fitted

pytestmark = pytest.mark.xdist_group("torch")
RANDOM = np.random.default_rng(0)


def same(model: Any, inputs: Tensors) -> None:
    """1e-4 and no flipped class, as is promised; in fact it is far less."""
    session = onnxruntime.InferenceSession(exported(model).SerializeToString(), providers=["CPUExecutionProvider"])
    own = model.raw(inputs)
    for places in (np.arange(inputs.rows), np.array([3])):
        (said,) = session.run(None, inputs.batch(places))
        assert said.shape == (len(places), own.shape[1])
        assert np.abs(said - own[places]).max() < 1e-5
        assert (said.argmax(axis=1) == own[places].argmax(axis=1)).all()


class Both(nn.Module):  # type: ignore[misc]
    """An image and columns, by name."""

    def __init__(self, inputs: int, outputs: int, shapes: Any) -> None:
        super().__init__()
        channels = shapes["photo"][0]
        self.see = nn.Sequential(
            nn.Conv2d(channels, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.last = nn.Linear(4 + inputs, outputs)

    def forward(self, photo: torch.Tensor, columns: torch.Tensor) -> Any:
        return self.last(torch.cat([self.see(photo), columns], dim=1))


def test_a_network_of_an_image_and_columns() -> None:
    photo = RANDOM.normal(size=(60, 3, 9, 9)).astype(np.float32)
    inputs = Tensors({"columns": RANDOM.normal(size=(60, 2)).astype(np.float32), "photo": photo})
    target = (photo.mean(axis=(1, 2, 3)) > 0).astype(np.int64)
    same(fitted(declared(Both, epochs=2), inputs, target), inputs)


class Encoder(nn.Module):  # type: ignore[misc]
    """torch's own transformer layers, which answer by one kernel that no graph has."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(30, 16, padding_idx=0)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.last = nn.Linear(16, outputs)

    def forward(self, tokens: torch.Tensor) -> Any:
        return self.last(self.layer(self.tokens(tokens), src_key_padding_mask=tokens == 0)[:, 0])


def tokens(rows: int = 60) -> tuple[Tensors, Any]:
    made = RANDOM.integers(1, 30, (rows, 6))
    made[:, 4:][RANDOM.random((rows, 2)) < 0.5] = 0
    return Tensors({"words": made}), (made[:, 0] > 15).astype(np.int64)


def test_a_transformer_of_torch() -> None:
    inputs, target = tokens()
    same(fitted(declared(Encoder, epochs=2), inputs, target), inputs)


class Looking(nn.Module):  # type: ignore[misc]
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.last = nn.Linear(4, outputs)

    def forward(self, columns: torch.Tensor) -> Any:
        return self.last(torch.linalg.lstsq(columns, columns).solution[0] * columns)


def test_what_no_graph_holds_is_refused_with_its_name() -> None:
    inputs = Tensors({"columns": RANDOM.normal(size=(40, 4)).astype(np.float32)})
    model = fitted(declared(Looking, epochs=1), inputs, RANDOM.integers(0, 2, 40))
    with pytest.raises(ConversionRefused, match="the network Looking cannot become a graph"):
        exported(model)


def test_weights_of_a_folder_are_finetuned_through_lora_and_merged(tmp_path: Path) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=16, num_labels=5,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(tmp_path / "bert-tiny")
    inputs, target = tokens()
    folder = TrainContext(seed=1, weights=tmp_path)
    tuned = fitted(
        declared(el.pretrained("bert-tiny"), epochs=2, adapt=el.LoRA(rank=2)), inputs, target, context=folder
    )
    state = tuned.module.state_dict()
    assert not any("lora" in name for name in state)
    begun = BertForSequenceClassification.from_pretrained(tmp_path / "bert-tiny").state_dict()
    kept = next(name for name in state if name.endswith("word_embeddings.weight"))
    assert torch.equal(state[kept], begun[kept.removeprefix("model.").removeprefix("base_model.")])
    same(tuned, inputs)
    pinned = el.pretrained("bert-tiny", digest=digest(tmp_path / "bert-tiny"))
    fitted(declared(pinned, epochs=1), inputs, target, context=folder)
    with pytest.raises(TrainError, match="and the declaration wants 000000000000…; bring those back"):
        fitted(declared(el.pretrained("bert-tiny", digest="0" * 64)), inputs, target, context=folder)


def test_a_hub_that_cannot_be_reached_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    inputs, target = tokens()
    with pytest.raises(TrainError, match=r"'nobody/nothing'.* is no folder .*download it once and give its folder"):
        fitted(declared(el.pretrained("nobody/nothing")), inputs, target, context=TrainContext())


UNREACHABLE = """
import everloop as el
from tiny_nets import declared, fitted, rows

fitted(declared(el.pretrained("nobody/nothing")), *rows())
"""


def test_a_hub_where_nobody_listens_is_said_and_what_to_do_instead() -> None:
    with socket.socket() as held:  # bound, and nobody listens
        held.bind(("127.0.0.1", 0))
        hub = f"http://127.0.0.1:{held.getsockname()[1]}"
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", UNREACHABLE], capture_output=True, text=True, timeout=120,
            env={**os.environ, "HF_ENDPOINT": hub, "PYTHONPATH": str(Path(__file__).parents[1] / "support")},
        )  # fmt: skip
    last = done.stderr.strip().splitlines()[-1]
    assert "TrainError: pretrained is given 'nobody/nothing', which is no folder beside the declaration" in last
    assert "download it once and give its folder" in last


def test_a_folder_that_timm_saved_is_tuned_and_served(tmp_path: Path) -> None:
    timm = pytest.importorskip(
        "timm", reason="timm needs a torchvision that fits torch; PyPI's does not fit the CPU build"
    )
    from safetensors.torch import save_file

    begun = timm.create_model("resnet18", num_classes=7)
    (tmp_path / "resnet").mkdir()
    save_file(begun.state_dict(), str(tmp_path / "resnet" / "model.safetensors"))
    (tmp_path / "resnet" / "config.json").write_text('{"architecture": "resnet18", "num_classes": 7}')
    pictures = np.random.default_rng(0).normal(size=(16, 3, 32, 32)).astype(np.float32)
    target = np.arange(16) % 2
    model = fitted(
        declared(el.pretrained("resnet"), epochs=1, batch_size=8, freeze={"layer*": 1, "conv1.*": 1}),
        Tensors({"picture": pictures}), target, context=TrainContext(seed=1, weights=tmp_path),
    )  # fmt: skip
    assert torch.equal(model.module.state_dict()["layer1.0.conv1.weight"], begun.state_dict()["layer1.0.conv1.weight"])
    assert model.predict_proba(Tensors({"picture": pictures})).shape == (16, 2)
