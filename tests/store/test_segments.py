"""Segments: what was written comes back, a torn tail ends cleanly, a full disk leaves no half frame."""

import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from everloop.errors import StoreError, StoreFull
from everloop.store import segments
from everloop.store.files import write_atomically, write_folder_atomically


def payloads(folder: Path) -> list[bytes]:
    return [payload for path in segments.files(folder) for payload, _ in segments.read(path)]


def test_frames_come_back_in_order_from_any_offset(tmp_path: Path) -> None:
    writer = segments.Writer(tmp_path, "a")
    sent = [bytes([n]) * n for n in range(50)]
    for each in sent:
        writer.append(each)
    writer.flush()
    path = writer.path
    found = list(segments.read(path))
    assert [payload for payload, _ in found] == sent
    assert [payload for payload, _ in segments.read(path, found[19][1])] == sent[20:]
    assert list(segments.read(path, found[-1][1])) == []
    writer.append(b"later")
    writer.close()
    assert [payload for payload, _ in segments.read(path, found[-1][1])] == [b"later"]


def test_a_torn_tail_ends_cleanly_at_every_byte(tmp_path: Path) -> None:
    writer = segments.Writer(tmp_path, "a")
    writer.append(b"first")
    writer.append(b"second")
    writer.close()
    (path,) = segments.files(tmp_path)
    whole = path.read_bytes()
    after_first = len(segments.MAGIC) + 8 + 5
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert [payload for payload, _ in segments.read(path)] == ([b"first"] if length >= after_first else [])
    for place in range(after_first, len(whole)):  # and a changed byte is no frame
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert [payload for payload, _ in segments.read(path)] == [b"first"]


def test_segments_rotate_and_never_reuse_a_name(tmp_path: Path) -> None:
    writer = segments.Writer(tmp_path, "a", rotate=100)
    for n in range(10):
        writer.append(b"x" * 40 + bytes([n]))
        writer.flush()
    writer.close()
    assert len(segments.files(tmp_path)) >= 4
    again = segments.Writer(tmp_path, "a", rotate=100)
    again.append(b"more")
    again.close()
    found = payloads(tmp_path)
    assert [each[-1] for each in found[:-1]] == list(range(10))
    assert found[-1] == b"more"


def test_something_else_is_not_a_segment(tmp_path: Path) -> None:
    path = tmp_path / "a.segment"
    path.write_bytes(b"something else entirely")
    with pytest.raises(StoreError, match="not a segment"):
        list(segments.read(path))


def test_the_flusher_writes_within_its_time_and_rests_otherwise(tmp_path: Path) -> None:
    writer = segments.Writer(tmp_path, "a")
    flusher = segments.Flusher(writer, every=0.02, sync=0.1)
    writer.append(b"one")
    flusher.wake()
    end = time.monotonic() + 5
    while payloads(tmp_path) != [b"one"] and time.monotonic() < end:
        time.sleep(0.01)
    assert payloads(tmp_path) == [b"one"]
    writer.append(b"two")
    flusher.wake()
    flusher.close()
    assert payloads(tmp_path) == [b"one", b"two"]


FULL_DISK = """
import resource, sys
from pathlib import Path
from everloop.errors import StoreFull
from everloop.store import segments
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
writer = segments.Writer(Path(sys.argv[1]), "a", pending=3000)
written = 0
try:
    for n in range(100):
        writer.write_now(bytes([n]) * 300)
        written += 1
except StoreFull as error:
    assert "No space" in str(error), error
assert written == 3, written
assert writer.trouble is not None
for n in range(20):
    writer.append(b"y" * 292, rows=2)
    try:
        writer.flush()
    except StoreFull:
        pass
assert writer.lost_rows == 20 and writer.lost_frames == 10, (writer.lost_rows, writer.lost_frames)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
writer.close()
assert writer.trouble is None
"""


def test_a_full_disk_leaves_no_half_frame_and_counts_what_is_lost(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], check=True, timeout=60)
    found = payloads(tmp_path)
    assert [each[:1] for each in found[:3]] == [b"\x00", b"\x01", b"\x02"]
    assert found[3:] == [b"y" * 292] * 10


def test_frames_survive_the_round_trip() -> None:
    frame = segments.PredictionFrame(
        loop="l", version=1, package="p", arm="champion", revision=2, epoch=3, share=0.1, ids=["a"],
        at=b"\x01" * 8, latency=b"\x02" * 4, status=b"\x00", texts=["t"], prediction=b"\x00" * 8,
    )  # fmt: skip
    assert segments.decode(segments.encode(frame)) == frame
    outcome = segments.OutcomeFrame(loop="l", outcomes=[("a", "late", True, 5), ("b", "late", None, 6)])
    assert segments.decode(segments.encode(outcome)) == outcome


def test_a_file_that_does_not_fit_leaves_the_old_one(tmp_path: Path) -> None:
    place = tmp_path / "f"
    write_atomically(place, b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(StoreFull, match="No space"):
            write_atomically(place, b"n" * 1000)
        with pytest.raises(StoreFull):
            write_folder_atomically(tmp_path / "folder", {"a": b"1", "b": b"n" * 1000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert place.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
