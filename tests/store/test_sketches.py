"""Files of sketches are whole or not at all, and go when nobody asks for them any more."""

import os
import threading
import time
from pathlib import Path

import pytest

from everloop.errors import StoreError
from everloop.store import sketches
from everloop.store.sketches import Head, Taken

MINUTE = 60_000_000
NOON = 1_767_268_800_000_000
"""1 January 2026, 12:00 UTC."""


def head(since: int = NOON, *, version: int = 3, tag: str = "0000001767268800-17", rows: int = 5) -> Head:
    return Head(
        version=version, tag=tag, first=1, since=since, until=since + 5 * MINUTE, rows=rows, sketched=rows, written=since,
        hours={84: rows},
    )  # fmt: skip


def written(folder: Path, one: Head, number: int = 1) -> Path:
    path = folder / sketches.name(one.version, one.tag, one.since, one.until, number)
    sketches.write(path, one, b"sketch")
    return path


def test_a_file_comes_back_and_its_name_says_when_it_ends(tmp_path: Path) -> None:
    path = written(tmp_path, head())
    assert path.name == "20260101T1200-5m-v3-0000001767268800-17-1.sketch"
    assert sketches.read(path) == (head(), b"sketch")
    assert list(sketches.files(tmp_path)) == [(path, NOON + 5 * MINUTE)]
    (tmp_path / "20269999T9999-5m-v3-x-1.sketch").write_bytes(b"no such day")
    assert list(sketches.files(tmp_path)) == [(path, NOON + 5 * MINUTE)]


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.9, 0.999])
def test_a_torn_file_is_told_from_a_whole_one(tmp_path: Path, share: float) -> None:
    path = written(tmp_path, head())
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(StoreError, match="is no whole sketch"):
        sketches.read(path)


def test_each_changed_byte_is_found(tmp_path: Path) -> None:
    path = written(tmp_path, head())
    data = path.read_bytes()
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        with pytest.raises(StoreError):
            sketches.read(path)


def test_what_no_window_asks_for_is_removed_with_what_a_kill_left(tmp_path: Path) -> None:
    old, new = written(tmp_path, head()), written(tmp_path, head(NOON + 5 * MINUTE, tag="1-18"))
    for tag in ("0000001767268800-17", "1-18"):
        taken = Taken(tmp_path, tag)
        taken.say(7, 5)
        taken.close()
        os.utime(tmp_path / f"{tag}.taken", (NOON / 1e6, NOON / 1e6))
    half = tmp_path / f".{old.name}.17.abcd"
    half.write_bytes(b"half")
    os.utime(half, (NOON / 1e6, NOON / 1e6))
    assert sketches.remove(tmp_path, NOON + 5 * MINUTE) == 1
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted([new.name, "1-18.taken"])


def test_a_process_that_was_silent_for_long_is_counted_when_it_takes_rows_again(tmp_path: Path) -> None:
    taken = Taken(tmp_path, "1-18")
    taken.say(7, 5)
    os.utime(tmp_path / "1-18.taken", (NOON / 1e6, NOON / 1e6))
    sketches.remove(tmp_path, NOON + 5 * MINUTE)
    assert sketches.taken(tmp_path) == {}
    taken.say(9, 7)
    assert sketches.taken(tmp_path)["1-18"][:2] == (9, 7)
    taken.close()


def test_two_threads_that_say_what_was_taken_wait_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, put, said = Taken(tmp_path, "1-18"), os.pwrite, []
    other = threading.Thread(target=lambda: taken.say(9, 7))

    def putting(descriptor: int, data: bytes, offset: int) -> int:
        said.append(int(data.split()[0]))
        if len(said) == 1:
            other.start()
            other.join(0.3)
            assert said == [7], "the other one writes, and may close what is written to"
        return put(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", putting)
    taken.say(7, 5)
    other.join()
    assert sketches.taken(tmp_path)["1-18"][:2] == (9, 7)
    taken.close()


def test_how_many_rows_were_taken_is_told_and_a_full_disk_ends_nothing(tmp_path: Path) -> None:
    taken = Taken(tmp_path, "1-18")
    assert sketches.taken(tmp_path) == {}
    taken.say(7, 5)
    taken.say(1_000, 990)
    (rows, written, at) = sketches.taken(tmp_path)["1-18"]
    assert (rows, written) == (1_000, 990)
    assert abs(at / 1e6 - time.time()) < 60
    taken.close()
    (tmp_path / "1-17.taken").write_bytes(b"%020d" % 12)  # by an everloop of before
    (tmp_path / "1-16.taken").write_bytes(b"")
    assert {tag: (each.rows, each.written) for tag, each in sketches.taken(tmp_path).items()} == {
        "1-18": (1_000, 990), "1-17": (12, 0),
    }  # fmt: skip
    gone = Taken(tmp_path / "nowhere", "1-18")
    gone.say(3, 0)
    gone.close()
