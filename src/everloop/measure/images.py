"""Images: the bytes of a PNG or JPEG file to an array, for training and for answers alike. Knows nothing of requests.

Pillow decodes and resizes, on both sides: whatever it does, both do. Its version stands in the package; `probed` finds a
server whose decoder does otherwise. Pillow is imported when the first image comes.
"""

import io
from base64 import b64decode
from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everloop.forms import Image

LARGEST_PIXELS = 2**25
"""33 megapixels, as a decompressed image: beyond that it is refused before anything is decompressed."""
FORMATS = ("PNG", "JPEG")
PNG = b"\x89PNG\r\n\x1a\n"
"""What such a file begins with; its width and height stand at byte 16."""
ORIENTATION = 0x0112
"""The EXIF tag that says how a picture is to be turned."""
KNOWN = tuple(map(b64decode, (
    "iVBORw0KGgoAAAANSUhEUgAAABgAAAAUBAMAAABlm+CwAAAAMFBMVEXIxlyHxq1L0oMU0iMyrknIhLCHhJVLhFMUhBbISHiHSFHIEh6HEhRLSC"
    "0USAwyEghEr4qmAAAAgUlEQVR42n3PsQ3CQBBE0XenowAqISCkA0okcu4WCNyAJVeAqMC+3NhH4LNFxEb7V5rZmVCgx0RUp/gBiBPWCmEURnpK"
    "FllZkP8ZJDCQPaWH071x6erTuaHbNWVTb7CwObeRbpDNtJKPpS1ZuhGuzl4lHxVW2y7ifVQg79Fq6nr5AgqFMLuuyTeWAAAAAElFTkSuQmCC",
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAA0JCgsKCA0LCgsODg0PEyAVExISEyccHhcgLikxMC4pLSwzOko+MzZGNywtQFdBRkxOUlNSMj5aYV"
    "pQYEpRUk//2wBDAQ4ODhMREyYVFSZPNS01T09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT0//wAARCAAU"
    "ABgDASIAAhEBAxEB/8QAGAABAQEBAQAAAAAAAAAAAAAAAAUGAwT/xAAgEAABBAIBBQAAAAAAAAAAAAAAAQMEIQIxEQUSQlFh/8QAFwEAAwEAAA"
    "AAAAAAAAAAAAAAAgQGB//EACARAAEEAQQDAAAAAAAAAAAAAAEAAgMEERITIbFBUXH/2gAMAwEAAhEDEQA/AMOxB1RQYgfCpGg6orRoGqF4juoK"
    "l/HlRmOnc+INS3FxbVE7ecvQCearHaXu5+E9BUsN9xauEVrCqKzTeODS5IloAK1CRC4j0elnNUnIXqisN1QAF6wG2FTRk6V//9k=",
)))  # fmt: skip
"""A pattern of colours as PNG (with a palette) and as JPEG (colours at half the resolution, as cameras write them)."""
CLOSE = 3
"""By how much (of 255) two decoders may differ in a mean of `probed`."""


class NotAnImage(ValueError):
    """Bytes that are no image that is taken here; says what they are."""


def decode(data: bytes | memoryview, form: Image) -> NDArray[np.uint8]:
    """uint8 [height, width, channels]. Raises `NotAnImage`.

    Turned upright as its EXIF says, without transparency, the first frame of several; bilinear with antialiasing.
    """
    pillow = _pillow()
    try:
        with pillow.open(io.BytesIO(data), formats=FORMATS) as opened:
            wide, high = opened.size
            if wide * high > LARGEST_PIXELS:
                raise NotAnImage(f"an image of {wide} × {high} pixels; at most {LARGEST_PIXELS:,} are taken")
            # A JPEG is decoded at a half, a quarter or an eighth of its size, never below twice what is wanted.
            opened.draft(None, (2 * form.width, 2 * form.height))
            return _array(opened, form)
    except NotAnImage:
        raise
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error and kinds of its own
        raise NotAnImage(_words(data, error)) from None


def work(data: bytes | memoryview) -> int:
    """How long decoding takes, in pixels of a PNG (20 ns each); a byte of a JPEG takes less than one. Reads only the head.

    >>> work(KNOWN[0]), work(b"no image")
    (480, 8)
    """
    if bytes(data[:8]) == PNG and len(data) >= 24:
        return int.from_bytes(data[16:20], "big") * int.from_bytes(data[20:24], "big")
    return len(data)


def normalised(pixels: NDArray[np.uint8], form: Image) -> NDArray[np.float32]:
    """uint8 [rows, height, width, channels] → float32 [rows, channels, height, width], as the served graph does it."""
    made = np.empty(pixels.shape, np.float32)
    normalise(pixels, form, made)
    return np.ascontiguousarray(made.transpose(0, 3, 1, 2))


def normalise(pixels: NDArray[np.uint8], form: Image, into: NDArray[np.float32]) -> None:
    """The same, channels last as the pixels are, into float32 [rows, height, width, channels] that lies in one piece."""
    scale, shift = _pattern(form)
    made = into.reshape(len(pixels), -1)
    made[...] = pixels.reshape(made.shape)  # then in place: multiplying as it is cast goes in small pieces
    made *= scale
    made += shift


@lru_cache(8)
def _pattern(form: Image) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """`scaling` of each value of an image in its order: numpy is fast on long lines."""
    scale, shift = scaling(form)
    return np.tile(scale, form.height * form.width), np.tile(shift, form.height * form.width)


def scaling(form: Image) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """By what a pixel is multiplied and what is added then, one a channel."""
    mean, deviation = np.array(form.mean), np.array(form.deviation)
    return (1.0 / (255.0 * deviation)).astype(np.float32), (-mean / deviation).astype(np.float32)


def probed(form: Image) -> tuple[int, ...]:
    """What this machine's decoder makes of two known images: the means of 16 squares, by channel, 0 to 255."""
    found: list[int] = []
    for data in KNOWN:
        pixels = decode(data, form).astype(np.float64)
        rows = np.array_split(pixels, min(4, form.height), axis=0)
        found += [round(float(part)) for row in rows for column in np.array_split(row, min(4, form.width), axis=1)
                  for part in column.mean(axis=(0, 1))]  # fmt: skip
    return tuple(found)


def same_decoder(form: Image, probe: tuple[int, ...]) -> bool:
    """Whether this machine decodes as the one did that ``probe`` comes from."""
    own = probed(form)
    return len(own) == len(probe) and all(abs(a - b) <= CLOSE for a, b in zip(own, probe, strict=True))


def _array(opened: Any, form: Image) -> NDArray[np.uint8]:
    upright = opened
    if ORIENTATION in opened.getexif():
        from PIL import ImageOps

        upright = ImageOps.exif_transpose(opened)
    if upright.mode.startswith("I;16"):  # a conversion would cut off all above 255
        upright = _pillow().fromarray((np.asarray(upright) >> 8).astype(np.uint8))
    mode, size = "RGB" if form.channels == 3 else "L", (form.width, form.height)
    plain = upright if upright.mode == mode else upright.convert(mode)  # it copies what is of that mode, too
    if plain.size != size:
        bilinear = _pillow().Resampling.BILINEAR
        if form.fit == "stretch":
            plain = plain.resize(size, bilinear)
        else:
            from PIL import ImageOps

            plain = ImageOps.fit(plain, size, bilinear)
    return np.frombuffer(plain.tobytes(), np.uint8).reshape(form.height, form.width, form.channels)


def _words(data: bytes | memoryview, error: Exception) -> str:
    if not len(data):
        return "empty"
    head = bytes(data[:8])
    kind = "a PNG" if head.startswith(b"\x89PNG") else "a JPEG" if head.startswith(b"\xff\xd8") else None
    if kind is None:
        return f"{len(data)} bytes that are neither PNG nor JPEG"
    return (
        f"{kind} of {len(data)} bytes that is damaged ({(str(error).splitlines() or [type(error).__name__])[0][:80]})"
    )


@cache
def _pillow() -> Any:
    try:
        from PIL import Image as Pillow
    except ImportError as error:
        raise ImportError("Images need Pillow: pip install 'everloop[image]'.") from error
    return Pillow
