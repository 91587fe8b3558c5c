"""The bench of columns over made mails: the examples' own declarations, made small, through real replays and a real server."""

import json
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from bench.columns import __main__ as columns
from bench.columns import hog, plot, replays
from bench.rows import Row
from matplotlib.patches import Rectangle
from PIL import Image

pytestmark = pytest.mark.xdist_group("torch")

EXAMPLES = Path(__file__).parents[2] / "examples"
WORDS = {True: ["cheap", "pills", "buy", "now"], False: ["meeting", "gas", "desk", "notes"]}
SMALLER = {
    "days=8": "hours=5", "days=4": "hours=5", "test=td(hours=6)": "test=td(hours=1)", "td(days=7)": "td(days=1)",
    "20_000": "50", "30_000": "50", "p99=td(milliseconds=20)": "p99=td(seconds=5)", "epochs=4": "epochs=2",
}  # fmt: skip


@pytest.fixture
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which they find made data where the real would be."""
    folder = tmp_path / "repository" / "examples"
    folder.mkdir(parents=True)
    (tmp_path / "shared" / "data").mkdir(parents=True)
    source = (EXAMPLES / "enron.py").read_text("utf-8")
    for old, new in SMALLER.items():
        assert old in source, f"the example no longer says {old}"
        source = source.replace(old, new)
    (folder / "enron.py").write_text(source, "utf-8")
    for module in (columns, replays):
        monkeypatch.setattr(module, "EXAMPLES", folder)
    return folder


def mails(rows: int) -> pl.DataFrame:
    random = np.random.default_rng(3)
    spam = random.random(rows) < 0.5
    texts = [" ".join(random.choice(WORDS[bool(each)], 6)) for each in spam]
    return pl.DataFrame(
        {
            "seq": np.arange(rows), "seq_mailbox": np.arange(rows), "sent_date": [datetime(2004, 1, 1, tzinfo=UTC)] * rows,
            "mailbox": ["m"] * rows, "source": ["s"] * rows, "file_no": np.arange(rows), "subject": texts, "body": texts,
            "is_spam": spam.astype(np.int8), "duplicate_of_earlier": [False] * rows,
        }
    )  # fmt: skip


def test_mails_go_through_the_loop_and_stand_beside_never(examples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path(__file__).parents[3] / "shared" / "data" / "enron_spam.parquet"
    made = mails(500)
    if real.exists():  # the made ones have its columns
        known = pl.read_parquet_schema(real)
        assert set(known) == set(made.columns)
        made = made.with_columns(pl.col("is_spam").cast(known["is_spam"]))
    made.write_parquet(examples.parents[1] / "shared" / "data" / "enron_spam.parquet")
    monkeypatch.setattr(columns, "QUICK_DAYS", 1)
    monkeypatch.setattr(columns, "MAILS", ("never", "transformer"))
    rows, kept = columns.text(quick=True, seconds=None)
    found = {row.what: row for row in rows}
    assert found["enron, transformer: accuracy"].ours > 0.95
    assert found["enron, transformer: accuracy"].peer_name == "never, same run"
    assert found["enron, transformer: failed requests"].ours == 0
    assert found["enron, transformer: largest difference from the network itself"].met
    assert kept["transformer"]["accuracy_by_day"]
    assert not any(word in str(kept) for word in WORDS[True])


def test_histograms_learn_from_each_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where stripes come to mean the opposite, who is never fitted again is wrong for ever, and who is comes round."""
    monkeypatch.setattr(hog, "WINDOW", 60)
    random = np.random.default_rng(5)
    labels = random.integers(0, 2, 240)
    frame = pl.DataFrame(
        {
            "jpeg": [stripes(bool(label) == (row < 60)) for row, label in enumerate(labels)],
            "label": labels,
            "domain": ["photo"] * 60 + ["cartoon"] * 180,
        }
    )
    again, never = (hog.right(frame, begin=60, end=240, retrained=each) for each in (True, False))
    assert not never["right"].any()
    assert not again["right"][:60].any(), "it has only seen photos"
    assert again["right"][120:].all(), "two thirds of what it is fitted on are cartoons"
    assert again["domain"].unique().to_list() == ["cartoon"]


def stripes(across: bool) -> bytes:
    pixels = np.tile(np.arange(64) // 4 % 2 * 200, (64, 1)).astype(np.uint8)
    file = BytesIO()
    Image.fromarray(pixels if across else np.ascontiguousarray(pixels.T)).convert("RGB").save(file, "JPEG")
    return file.getvalue()


def test_the_plot_draws_what_was_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def replay(shares: list[float]) -> dict[str, object]:
        return {
            "accuracy_by_day": [[f"2026-01-0{day}", share] for day, share in enumerate(shares, 1)],
            "accuracy_by_domain": [["photo", shares[0]], ["cartoon", shares[-1]]],
            "decisions": [{"at": "2026-01-02T03:00:00", "action": "released"}],
        }

    replays = {"pacs": replay([0.9, 0.5, 0.8]), "never": replay([0.9, 0.3, 0.2])}
    kept = {**replays, "HOG": {"retrained": [["photo", 0.6], ["cartoon", 0.4]]}}
    figure = plot.drawn(kept)
    left, right = figure.axes
    loop, never, served = left.get_lines()
    assert np.asarray(loop.get_ydata()).tolist() == [0.9, 0.5, 0.8]
    assert np.asarray(never.get_ydata()).tolist() == [0.9, 0.3, 0.2]
    assert np.asarray(served.get_xdata()).tolist() == [1], "the second day"
    assert [each.get_text() for each in right.get_xticklabels()] == ["photos", "cartoons"], "paintings did not come"
    assert [each.get_height() for each in right.patches if isinstance(each, Rectangle)] == [
        0.9,
        0.8,
        0.9,
        0.2,
        0.6,
        0.4,
    ]
    monkeypatch.setattr(plot, "RESULTS", tmp_path / "columns.json")
    monkeypatch.setattr(plot, "PLOT", plot.ROOT / "pacs-of-a-test.svg")
    (tmp_path / "columns.json").write_text(json.dumps({"parts": {"images": {"replays": kept}}}), "utf-8")
    try:
        plot.main()
        assert "never fitted again" in plot.PLOT.read_text("utf-8")
    finally:
        plot.PLOT.unlink(missing_ok=True)


def test_one_part_is_kept_beside_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "RESULTS", tmp_path / "columns.json")
    columns.keep("text", [Row(what="mails", ours=1.0, unit="share")], {"tfidf": {}})
    columns.keep("images", [Row(what="pictures", ours=0.5, unit="share")], {"pacs": {}})
    columns.keep("text", [Row(what="mails", ours=0.9, unit="share")], {"tfidf": {}})
    kept = json.loads((tmp_path / "columns.json").read_text("utf-8"))
    assert [(each["what"], each["ours"]) for each in kept["rows"]] == [("pictures", 0.5), ("mails", 0.9)]
    assert set(kept["parts"]) == {"images", "text"}
