import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from everloop.forms import Image
from everloop.measure import images

FORM = Image(height=8, width=12, channels=3, fit="stretch", mean=(0.5, 0.4, 0.3), deviation=(0.5, 0.25, 1.0))


def file(kind: str = "PNG", size: tuple[int, int] = (12, 8), mode: str = "RGB", **options: Any) -> bytes:
    random = np.random.default_rng(1)
    shape = (size[1], size[0], len(mode)) if mode != "L" else (size[1], size[0])
    made = io.BytesIO()
    Pillow.fromarray(random.integers(0, 256, shape, dtype=np.uint8), mode if mode == "RGBA" else None).save(
        made, kind, **options
    )
    return made.getvalue()


def form(**changes: Any) -> Image:
    given = {name: getattr(FORM, name) for name in ("height", "width", "channels", "fit", "mean", "deviation")}
    return Image(**{**given, **changes})


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("size", [(12, 8), (1, 1), (300, 200), (3, 500)])
def test_any_size_becomes_the_declared_one(kind: str, size: tuple[int, int]) -> None:
    for fit in ("stretch", "cover"):
        assert images.decode(file(kind, size), form(fit=fit)).shape == (8, 12, 3)


def test_an_image_of_the_declared_size_is_taken_pixel_by_pixel() -> None:
    pixels = images.decode(file(), FORM)
    np.testing.assert_array_equal(pixels, np.asarray(Pillow.open(io.BytesIO(file()))))


def test_grey_transparent_palette_and_deep_images_are_images() -> None:
    grey = images.decode(file(mode="L"), form(channels=1, mean=(0.5,), deviation=(0.5,)))
    assert grey.shape == (8, 12, 1)
    assert images.decode(file(mode="RGBA"), FORM).shape == (8, 12, 3)
    deep = io.BytesIO()
    Pillow.fromarray(np.full((8, 12), 40_000, np.uint16)).save(deep, "PNG")
    assert images.decode(deep.getvalue(), FORM).tolist() == np.full((8, 12, 3), 40_000 >> 8).tolist()


def test_photos_are_turned_upright() -> None:
    exif = Pillow.Exif()
    exif[0x0112] = 6  # the camera lay on its side
    turned = images.decode(file("JPEG", (8, 12), exif=exif.tobytes(), quality=95), form())
    lying = images.decode(file("JPEG", (8, 12), quality=95), form(height=12, width=8))
    np.testing.assert_array_equal(turned, np.rot90(lying, k=-1))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty"),
        (b"hello", "neither PNG nor JPEG"),
        (b"GIF89a" + bytes(50), "neither PNG nor JPEG"),
        (file()[:-80], "a PNG of .* damaged"),
        (file("JPEG", (60, 60))[:-300], "a JPEG of .* damaged"),
        (file()[:20], "a PNG of .* damaged"),
        (b"\xff\xd8" + bytes(500), "a JPEG of .* damaged"),
    ],
)
def test_what_is_no_image_is_said(data: bytes, said: str) -> None:
    with pytest.raises(images.NotAnImage, match=said):
        images.decode(data, FORM)


def test_a_decompression_bomb_is_refused_before_it_is_decompressed() -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )
    with pytest.raises(images.NotAnImage, match="pixels"):  # and no warning: those are errors in tests
        images.decode(bomb, FORM)


def test_values_are_moved_as_declared() -> None:
    pixels = np.array([0, 255], np.uint8).reshape(1, 1, 2, 1).repeat(3, axis=3)
    moved = images.normalised(pixels, form(height=1, width=2))
    assert moved.dtype == np.float32
    np.testing.assert_allclose(moved[0, :, 0, 0], [-1.0, -1.6, -0.3], atol=1e-6)
    np.testing.assert_allclose(moved[0, :, 0, 1], [1.0, 2.4, 0.7], atol=1e-6)


def test_another_decoder_is_found() -> None:
    probe = images.probed(FORM)
    assert images.same_decoder(FORM, probe)
    assert images.same_decoder(FORM, (probe[0] + 2, *probe[1:]))
    assert not images.same_decoder(FORM, (probe[0] + 9, *probe[1:]))
    assert not images.same_decoder(FORM, probe[1:])
