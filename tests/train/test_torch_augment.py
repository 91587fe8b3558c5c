from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import everloop as el
from everloop.errors import SpecError, TrainError
from everloop.forms import Special
from everloop.measure.tensors import Tensors
from everloop.spec import augment
from everloop.spec.codec import from_bytes, to_bytes
from everloop.spec.torch import Torch
from everloop.train.torch_augment import augmented


def images(rows: int = 64, height: int = 12, width: int = 8) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.rand(rows, 3, height, width)


def one(each: Any, name: str, tensor: torch.Tensor, seed: int = 5) -> torch.Tensor:
    torch.manual_seed(seed)
    return augmented([each], {name: tensor}, {})[0][name]


def test_a_share_of_the_images_is_mirrored() -> None:
    before = images()
    after = one(augment.Flip(share=0.5), "picture", before)
    same = (after == before).all(dim=3).all(dim=2).all(dim=1)
    mirrored = (after == before.flip(3)).all(dim=3).all(dim=2).all(dim=1)
    assert bool((same ^ mirrored).all())
    assert 15 < int(mirrored.sum()) < 50
    upside = one(augment.Flip(share=0.9999999, axis="vertical"), "picture", before)
    assert bool((upside == before.flip(2)).all())


@pytest.mark.parametrize(
    "each",
    [
        augment.Rotate(degrees=30),
        augment.Crop(least=0.5),
        augment.Colour(),
        augment.Noise(),
        augment.MixUp(),
        augment.CutMix(),
    ],
    ids=lambda each: type(each).__name__,
)
def test_the_same_seed_gives_the_same_images_and_another_gives_others(each: Any) -> None:
    before = images()
    after = one(each, "picture", before)
    assert after.shape == before.shape
    assert bool(torch.isfinite(after).all())
    assert torch.equal(after, one(each, "picture", before))
    assert not torch.equal(after, one(each, "picture", before, seed=6))
    assert torch.equal(before, images()), "what is given stays as it is"


def test_a_quarter_turn_is_one() -> None:
    before = images(height=8, width=8)
    quarter = augment.Rotate(degrees=90)
    angle = torch.full((len(before),), 1.0)
    original = torch.rand
    try:
        torch.rand = lambda *given, **named: angle
        turned = one(quarter, "picture", before)
    finally:
        torch.rand = original
    torch.testing.assert_close(turned, before.rot90(1, dims=(2, 3)), atol=1e-5, rtol=0)


def test_nothing_moves_an_image_of_one_colour() -> None:
    flat = torch.full((4, 3, 6, 6), 0.25)
    for each in (augment.Rotate(), augment.Crop(), augment.Colour()):
        torch.testing.assert_close(one(each, "picture", flat), flat)


def test_cut_mix_says_how_much_is_the_others() -> None:
    before = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 1, 10, 10).clone()
    torch.manual_seed(2)
    after, mixed = augmented([augment.CutMix()], {"picture": before, "columns": torch.zeros(8, 2)}, {})
    assert mixed is not None
    own = (after["picture"] == before).float().mean(dim=(1, 2, 3))
    for row in range(8):
        expected = 1.0 if int(mixed.other[row]) == row else mixed.share
        assert float(own[row]) == pytest.approx(expected)


def test_tokens_are_dropped_and_change_places_but_padding_stays() -> None:
    tokens = torch.arange(2, 22).repeat(50, 1)
    tokens[:, 15:] = 0
    dropped = one(augment.TokenDropout(share=0.3), "text", tokens)
    assert bool((dropped[:, 15:] == 0).all())
    assert 0.2 < float((dropped[:, :15] == 1).float().mean()) < 0.4
    swapped = one(augment.TokenSwap(share=0.4), "text", tokens)
    assert not torch.equal(swapped, tokens)
    assert torch.equal(swapped.sort(dim=1).values, tokens.sort(dim=1).values)
    assert bool((swapped[:, 15:] == 0).all())


def test_a_tokenizers_own_signs_are_no_words() -> None:
    tokens = torch.arange(10, 30).repeat(50, 1)
    tokens[:, 0], tokens[:, 14], tokens[:, 15:] = 5, 6, 9
    special = {"text": Special(padding=9, unknown=7, marks=(5, 6))}
    torch.manual_seed(5)
    dropped = augmented([augment.TokenDropout(share=0.3)], {"text": tokens}, special)[0]["text"]
    assert set(dropped[dropped != tokens].tolist()) == {7}
    swapped = augmented([augment.TokenSwap(share=0.4)], {"text": tokens}, special)[0]["text"]
    for after in (dropped, swapped):
        assert torch.equal(after[:, [0, *range(14, 20)]], tokens[:, [0, *range(14, 20)]])
        assert not torch.equal(after, tokens)


def test_what_is_not_there_is_not_augmented() -> None:
    with pytest.raises(TrainError, match="for images, and there are none"):
        augmented([augment.Flip()], {"columns": torch.zeros(2, 3)}, {})
    with pytest.raises(TrainError, match="'photo' is none"):
        augmented([augment.Flip(features=("photo",))], {"picture": images(2)}, {})


class Net(torch.nn.Module):  # type: ignore[misc, unused-ignore]
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.says = torch.nn.Linear(3 * 12 * 8, outputs)

    def forward(self, picture: Any) -> Any:
        return self.says(picture.flatten(1))


def test_a_network_learns_from_augmented_rows_and_is_the_same_again() -> None:
    from everloop.train.function import TrainContext
    from everloop.train.torch import fit

    pictures = images(200).numpy()
    target = (pictures[:, 0].mean(axis=(1, 2)) > pictures[:, 1].mean(axis=(1, 2))).astype(np.int64)
    declared = Torch(
        Net, epochs=15, learning_rate=0.02, augment=[augment.Flip(), augment.MixUp(), augment.Noise(deviation=0.01)],
        precision="32", compile="off", deterministic=True,
    )  # fmt: skip

    def trained() -> Any:
        return fit(
            declared, Tensors({"picture": pictures}), target, task="binary", classes=2, weights=None,
            context=TrainContext(seed=3, threads=1),
        )  # fmt: skip

    first, again = trained(), trained()
    for name, value in first.module.state_dict().items():
        assert torch.equal(value, again.module.state_dict()[name])
    assert first.history[-1]["loss"] < first.history[0]["loss"]


def test_a_fit_that_was_stopped_goes_on_with_the_very_same_augmentation(tmp_path: Path) -> None:
    from everloop.train.function import TrainContext
    from everloop.train.torch import fit

    pictures = images(90).numpy()
    target = (pictures[:, 0].mean(axis=(1, 2)) > pictures[:, 1].mean(axis=(1, 2))).astype(np.int64)
    declared = Torch(
        Net, epochs=2, batch_size=30, precision="32", compile="off", deterministic=True, checkpoint_every=timedelta(0),
        augment=[augment.Flip(), augment.Rotate(degrees=10), augment.Crop(), augment.Colour(), augment.CutMix(), augment.Noise()],
    )  # fmt: skip

    class Stopped(Exception):
        pass

    def trained(folder: Path, stop_at: int | None = None) -> Any:
        seen = []

        def watch(detail: dict[str, Any]) -> None:
            seen.append("checkpoint" in detail)
            if sum(seen) == stop_at:
                raise Stopped

        return fit(
            declared, Tensors({"picture": pictures}), target, task="binary", classes=2, weights=None,
            context=TrainContext(seed=3, threads=1, checkpoints=folder, progress=watch),
        )  # fmt: skip

    undisturbed = trained(tmp_path / "whole")
    for at in (1, 2, 4):
        with pytest.raises(Stopped):
            trained(tmp_path / str(at), stop_at=at)
        for name, value in trained(tmp_path / str(at)).module.state_dict().items():
            assert torch.equal(value, undisturbed.module.state_dict()[name])


class Sees(torch.nn.Module):  # type: ignore[misc, unused-ignore]
    """Keeps what it is shown in training."""

    shown: ClassVar[list[torch.Tensor]] = []

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.says = torch.nn.Linear(1, outputs)

    def forward(self, picture: Any) -> Any:
        if self.training:
            self.shown.append(picture.detach().clone())
        return self.says(picture.mean(dim=(1, 2, 3)).unsqueeze(1))


@pytest.mark.parametrize("each", [augment.Flip(share=0.9999999), augment.MixUp(alpha=2.0)], ids=["flip", "mixup"])
def test_the_network_sees_augmented_rows(each: Any) -> None:
    from everloop.train.function import TrainContext
    from everloop.train.torch import fit

    Sees.shown.clear()
    pictures, target = images(8).numpy(), np.arange(8) % 2
    losses = [
        fit(
            Torch(Sees, epochs=1, batch_size=8, augment=given, precision="32", compile="off", deterministic=True),
            Tensors({"picture": pictures}), target, task="binary", classes=2, weights=None,
            context=TrainContext(seed=3, threads=1),
        ).history[0]["loss"]
        for given in ([], [each])
    ]  # fmt: skip
    plain, changed = Sees.shown
    if isinstance(each, augment.Flip):
        assert torch.equal(changed, plain.flip(3))
    else:
        assert not any(torch.equal(one, other) for one in changed for other in plain)
        assert losses[0] != losses[1]


def test_augmentation_is_part_of_the_declaration() -> None:
    loop = el.Loop(
        name="pictures", source=el.Parquet("a.parquet", key="id", event_time="at"), label=el.Label("what"),
        train=el.Torch("torchvision.models.resnet18", augment=[el.augment.Flip(), el.augment.Rotate(degrees=5)]),
    )  # fmt: skip
    assert from_bytes(to_bytes(loop)).train == loop.train
    with pytest.raises(SpecError, match="degrees"):
        el.augment.Rotate(degrees=0)
