"""Which digit is on the picture? scikit-learn's 1,797 handwritten digits, as PNG files of 8 × 8 pixels.

`python digits.py` writes them into the folder digits beside this file, 300 a file; everything else is everloop's.
"""

import io
from datetime import UTC, datetime
from datetime import timedelta as td
from pathlib import Path

from sklearn.linear_model import LogisticRegression

import everloop as el


def features(row):
    return {"picture": row.png.image(8, 8, channels=1)}


loop = el.Loop(
    name="digits",
    source=el.Parquet(
        "digits/*.parquet",
        key="number",
        event_time=el.Fixed("number", start=datetime(2026, 1, 1, tzinfo=UTC), every=td(minutes=10)),
    ),
    label=el.Label("digit"),
    features=features,
    window=el.Everything(test=0.2),
    train=el.Train(LogisticRegression(max_iter=200)),
    score=el.metric.Accuracy(),
    gate=el.NotWorse(margin=0.03),
)


def write(folder: Path) -> None:
    """scikit-learn's digits as PNG files in Parquet files."""
    import polars as pl
    from PIL import Image
    from sklearn.datasets import load_digits

    found = load_digits()
    files = []
    for pixels in found.images:
        file = io.BytesIO()
        Image.fromarray((pixels * 15.9375).astype("uint8")).save(file, "PNG")
        files.append(file.getvalue())
    rows = pl.DataFrame({"number": range(len(files)), "png": files, "digit": found.target})
    folder.mkdir(exist_ok=True)
    for begin in range(0, len(rows), 300):
        rows[begin : begin + 300].write_parquet(folder / f"{begin:06d}.parquet")


if __name__ == "__main__":
    write(Path(__file__).parent / "digits")
