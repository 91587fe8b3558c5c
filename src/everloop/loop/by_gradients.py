"""A network's contributions by its gradients, in the user's features, words and pixels. Builds no network."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from everloop.loop.contribution import Contribution, Scale, largest_first, shown, sigmoid
from everloop.loop.of_version import Network
from everloop.measure import tokens
from everloop.measure.encode import COLUMNS
from everloop.records import FeatureEncoding

Numbers = npt.NDArray[np.float64]


def told(network: Network, frame: pl.DataFrame, place: int) -> dict[str, Any]:
    """Fields of the `everloop.loop.attribution.Attribution` of one raw row. Raises TrainError where gradients tell nothing."""
    made, classes = network.made, bool(network.made.signature.classes)
    features, brought = network.brought(frame, place if classes else None)
    centre, spread = made.scaled_by
    by_feature = _by_feature(network, brought.shares)
    contributions = [
        _contribution(each, features[each.name][0], by_feature[each.name] * spread)
        for each in network.encoding.features
    ]
    total = brought.total * spread + centre
    scale: Scale = "log odds"
    if classes:
        answer = sigmoid(total)
    elif made.resolved.loop.label.scale == "log1p":
        scale, answer = "log1p of the value", math.expm1(total)
    else:
        scale, answer = "value", total
    return {
        "method": "its gradients", "scale": scale, "base": brought.base * spread + centre, "total": total,
        "gap": brought.gap * spread, "answer": answer, "contributions": largest_first(contributions),
    }  # fmt: skip


def _by_feature(network: Network, shares: dict[str, Numbers]) -> dict[str, Numbers]:
    """Of each feature its columns, pixels or tokens."""
    found = {name: each for name, each in shares.items() if name != COLUMNS}
    if COLUMNS not in shares:
        return found
    flat, begin = network.encoding.flat, 0
    indicator = flat.width - sum(each.indicator for each in flat.features)  # they stand at the end
    for each in flat.features:
        width = each.width - each.indicator
        parts = shares[COLUMNS][begin : begin + width]
        begin += width
        if each.indicator:
            parts = np.append(parts, shares[COLUMNS][indicator])
            indicator += 1
        found[each.name] = parts
    return found


def _contribution(feature: FeatureEncoding, value: Any, shares: Numbers) -> Contribution:
    words: tuple[tuple[str, float], ...] = ()
    if feature.tokens is not None:
        spelled = tokens.spelled(feature.tokens, None if value is None else str(value))
        words = tuple((token, float(share)) for token, share in zip(spelled, shares, strict=False))
    parts = tuple(tuple(float(share) for share in each) for each in shares) if feature.image is not None else ()
    return Contribution(
        name=feature.name, value=shown(value), contribution=float(shares.sum()), words=words, parts=parts
    )  # fmt: skip
