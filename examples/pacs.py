"""What is on the picture? 6,062 pictures of seven things: first photos, then paintings, then cartoons.

The model that saw photos alone is lost before the first painting; the loop notices it, trains again and recovers.
`forgetful` is the same without a second fit: what never retraining costs.
"""

from dataclasses import replace
from datetime import UTC, datetime
from datetime import timedelta as td

import torch
from torch import nn

import everloop as el


class Net(nn.Module):
    """Four strided convolutions with normalisation, the mean over what is left, and a line: 0.2 million weights."""

    def __init__(self, outputs: int, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for step in range(4):
            wide = width * min(4, 2**step)
            layers += [nn.Conv2d(channels, wide, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(wide), nn.ReLU()]
            channels = wide
        self.looks = nn.Sequential(*layers)
        self.says = nn.Sequential(nn.Dropout(0.2), nn.Linear(channels, outputs))

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        return self.says(self.looks(picture).mean(dim=(2, 3)))


def features(row):
    return {"picture": row.jpeg.image(64, 64)}


loop = el.Loop(
    name="pacs",
    source=el.Parquet(
        "../../shared/data/pacs_64.parquet",
        key="seq",
        # No picture has a time: they come one every six minutes, 240 a day.
        event_time=el.Fixed("seq", start=datetime(2026, 1, 1, tzinfo=UTC), every=td(minutes=6)),
        after=["class_name", "file_name", "source_sha1"],
    ),
    label=el.Label("label", task="multiclass"),
    features=features,
    window=el.Last(1_500, test=120),
    train=el.Train(
        el.Torch(
            Net,
            epochs=12,
            learning_rate=4e-3,
            label_smoothing=0.1,
            augment=[el.augment.Flip(), el.augment.Crop(least=0.7)],
            start="champion",  # edges and colours are the same in a painting
            deterministic=True,
        )
    ),
    score=el.metric.Accuracy(),
    gate=el.NotWorse(margin=0.05),
    rollout=el.Direct(),
    retrain=el.AnyOf(el.Every(td(days=3)), el.Degraded(by=0.08)),
)

forgetful = replace(loop, name="pacs-never", retrain=el.Manual())
