"""What is on the picture? 6,062 pictures of seven things: first photos, then paintings, then cartoons.

The model that saw photos alone is lost before the first painting; the loop notices it, trains again and recovers.
`forgetful` is the same without a second fit: what never retraining costs.
"""

from dataclasses import replace
from datetime import UTC, datetime
from datetime import timedelta as td

import torch
from torch import nn
from torch.nn import functional

import everloop as el


class Net(nn.Module):
    """Edges in eight directions and colours, in cells of 4 × 4 pixels, and two small convolutions on them: 50,000 weights.

    A drawn horse has few of a photographed one's colours and textures, and most of its edges. How strong these are in one
    place is divided by how strong they are around it, as histograms of oriented gradients do (Dalal and Triggs, 2005):
    what is fixed need not be learned from a few hundred paintings.
    """

    def __init__(self, outputs: int, directions: int = 8, width: int = 64) -> None:
        super().__init__()
        self.register_buffer("edges", _derivatives(directions))
        self.scaled = nn.BatchNorm2d(directions + 3)
        self.looks = nn.Sequential(
            *_step(directions + 3, width),
            *_step(width, width),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(16 * width, outputs),
        )

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        grey = functional.pad(picture.mean(dim=1, keepdim=True), (2, 2, 2, 2), mode="replicate")
        edges = functional.avg_pool2d(functional.conv2d(grey, self.edges).abs(), 4)
        around = functional.avg_pool2d((edges**2).sum(dim=1, keepdim=True), 5, 1, 2, count_include_pad=False)
        cells = torch.cat([edges / (around + 1e-3).sqrt(), functional.avg_pool2d(picture, 4)], dim=1)
        return self.looks(self.scaled(cells))


def _derivatives(directions: int) -> torch.Tensor:
    """[directions, 1, 5, 5]: the first derivative of a Gaussian of one pixel's deviation, each of absolute sum 1."""
    down, across = torch.meshgrid(torch.arange(-2.0, 3.0), torch.arange(-2.0, 3.0), indexing="ij")
    angles = torch.arange(directions).reshape(-1, 1, 1) * torch.pi / directions
    made = torch.exp(-(down**2 + across**2) / 2) * (across * angles.cos() + down * angles.sin())
    return (made / made.abs().sum(dim=(1, 2), keepdim=True)).unsqueeze(1)


def _step(channels: int, width: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)]


def features(row):
    return {"picture": row.jpeg.image(64, 64)}


loop = el.Loop(
    name="pacs",
    source=el.Parquet(
        "../../shared/data/pacs_64.parquet",
        key="seq",
        # No picture has a time: they come one every three minutes, 480 a day.
        event_time=el.Fixed("seq", start=datetime(2026, 1, 1, tzinfo=UTC), every=td(minutes=3)),
        after=["class_name", "file_name", "source_sha1"],
    ),
    label=el.Label("label", task="multiclass"),
    features=features,
    window=el.Last(1_500, test=100),
    train=el.Train(
        el.Torch(
            Net,
            epochs=15,
            learning_rate=4e-3,
            weight_decay=0.05,
            label_smoothing=0.1,
            augment=[
                el.augment.Flip(),
                el.augment.Crop(least=0.7),
                el.augment.Colour(brightness=0.4, contrast=0.4, saturation=0.6),
            ],
            deterministic=True,
        )
    ),
    score=el.metric.Accuracy(),
    gate=el.NotWorse(margin=0.05),
    rollout=el.Direct(),
    retrain=el.AnyOf(el.Every(td(days=1)), el.Degraded(by=0.08)),
)

forgetful = replace(loop, name="pacs-never", retrain=el.Manual())
