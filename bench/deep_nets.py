"""The networks that bench.deep trains: one for columns, a ResNet for small images, a small transformer."""

from typing import Any

import torch
from torch import nn


class Columns(nn.Module):
    """Three linear layers."""

    def __init__(self, inputs: int, outputs: int, hidden: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, outputs)
        )

    def forward(self, columns: torch.Tensor) -> Any:
        return self.layers(columns)


class Block(nn.Module):
    def __init__(self, into: int, out: int, stride: int) -> None:
        super().__init__()
        self.way = nn.Sequential(
            nn.Conv2d(into, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(),
            nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out),
        )  # fmt: skip
        short = stride == 1 and into == out
        self.short = (
            nn.Identity() if short else nn.Sequential(nn.Conv2d(into, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        )

    def forward(self, image: torch.Tensor) -> Any:
        return torch.relu(self.way(image) + self.short(image))


class ResNet(nn.Module):
    """ResNet-18 for small images; ``width`` 16: 0.7 M parameters, 64: 11.2 M."""

    def __init__(self, outputs: int, width: int = 16) -> None:
        super().__init__()
        widths = [width, width, 2 * width, 4 * width, 8 * width]
        parts: list[nn.Module] = [nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        for place in range(4):
            parts.append(Block(widths[place], widths[place + 1], 1 if place == 0 else 2))
            parts.append(Block(widths[place + 1], widths[place + 1], 1))
        self.body = nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(8 * width, outputs)

    def forward(self, image: torch.Tensor) -> Any:
        return self.head(self.body(image))


class Transformer(nn.Module):
    """Two encoder layers over token ids, 0 where there is none; the mean over what there is."""

    def __init__(self, outputs: int, vocabulary: int = 500, width: int = 64, length: int = 32) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width, padding_idx=0)
        self.places = nn.Parameter(torch.randn(1, length, width) * 0.02)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 2 * width, 0.1, batch_first=True, norm_first=True) for _ in range(2)
        )
        self.head = nn.Linear(width, outputs)

    def forward(self, tokens: torch.Tensor) -> Any:
        there = tokens != 0
        seen = self.tokens(tokens) + self.places
        for layer in self.layers:
            seen = layer(seen, src_key_padding_mask=~there)
        weights = there.unsqueeze(2).to(seen.dtype)
        return self.head((seen * weights).sum(1) / weights.sum(1).clamp(min=1))
