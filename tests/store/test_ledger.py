"""Opening, migrating and protecting the ledger. What the tables hold is checked by the conformance suite."""

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

from everloop.durable import journal
from everloop.errors import StoreError, StoreFull
from everloop.records import Decision, Release
from everloop.store.ledger import Ledger, alerts, experiments, migrate, mounts, releases, watermarks
from everloop.store.ledger.tables import metadata
from everloop.testing import check_ledger


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "home" / "ledger.sqlite"


def test_the_ledger_conforms(place: Path) -> None:
    check_ledger(lambda: Ledger.open(place))


def test_an_address_is_as_good_as_a_path(place: Path) -> None:
    Ledger.open(place).close()
    ledger = Ledger.open(f"sqlite:///{place}")
    with ledger.read() as connection:
        assert watermarks.of(connection, "flights") == {}
    ledger.close()
    with pytest.raises(StoreError, match="lost when the process ends"):
        Ledger.open("sqlite://")


def test_the_migrations_make_the_tables_that_the_code_knows(place: Path) -> None:
    Ledger.open(place).close()
    engine = create_engine(f"sqlite:///{place}")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()
    assert ScriptDirectory(migrate.SCRIPTS).get_current_head() == migrate.HEAD


def test_the_second_open_is_quick_and_needs_no_alembic(place: Path) -> None:
    Ledger.open(place).close()
    script = (
        "import sys, time; from pathlib import Path; from everloop.store.ledger import Ledger\n"
        f"start = time.process_time(); ledger = Ledger.open(Path({str(place)!r}))\n"
        "print(time.process_time() - start, 'alembic' in sys.modules); ledger.close()"
    )
    seconds, alembic = subprocess.check_output([sys.executable, "-c", script], text=True).split()
    assert alembic == "False"
    assert float(seconds) < 0.03


def test_many_that_open_a_new_ledger_at_once_all_get_it(place: Path) -> None:
    script = (
        f"from pathlib import Path; from everloop.store.ledger import Ledger; Ledger.open(Path({str(place)!r})).close()"
    )
    opening = [subprocess.Popen([sys.executable, "-W", "error", "-c", script]) for _ in range(4)]
    assert [process.wait() for process in opening] == [0, 0, 0, 0]


def test_every_commit_is_on_disk_in_a_write_ahead_log(place: Path) -> None:
    ledger = Ledger.open(place)
    with ledger.write() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar_one() == "wal"
        assert connection.execute(text("PRAGMA synchronous")).scalar_one() == 2  # FULL
        assert connection.execute(text("PRAGMA busy_timeout")).scalar_one() == 30_000
    ledger.close()


def test_a_reader_does_not_wait_for_a_writer(place: Path) -> None:
    ledger = Ledger.open(place)
    with ledger.write() as writing:
        watermarks.put(writing, "flights", "position", 1)
        start = time.monotonic()
        with ledger.read() as reading:
            assert watermarks.get(reading, "flights", "position") is None
        assert time.monotonic() - start < 5
    ledger.close()


def test_a_ledger_of_before_there_were_experiments_and_alerts_keeps_what_it_holds(place: Path) -> None:
    ledger = Ledger.open(place)
    with ledger.write() as connection:
        old = Release(loop="flights", revision=1, stage="steady", champion=1)
        decision = Decision(loop="flights", at=datetime(2026, 1, 1, tzinfo=UTC), action="released", because="the first")
        releases.change(connection, 0, old, decision)
        # As revision 0001 left it: no such table, and records without what came later.
        for table in ("experiments", "alerts", "silences"):
            connection.execute(text(f"DROP TABLE {table}"))
        connection.execute(text("UPDATE releases SET record = json_remove(record, '$.experiment', '$.route')"))
        connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    ledger.close()
    ledger = Ledger.open(place)
    with ledger.read() as connection:
        assert releases.get(connection, "flights") == old
        assert experiments.of(connection, "flights") == ()
        assert alerts.unsettled(connection, "flights") == ()
    ledger.close()


def test_a_ledger_of_a_newer_everloop_is_left_alone(place: Path) -> None:
    Ledger.open(place).close()
    with sqlite3.connect(place) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(StoreError, match=r"'9999'.*newer everloop"):
        Ledger.open(place)


def test_a_file_that_is_no_ledger_is_left_alone(place: Path) -> None:
    place.parent.mkdir()
    place.write_bytes(b"a picture of a cat, say" * 100)
    with pytest.raises(StoreError, match="is not a ledger"):
        Ledger.open(place)
    assert place.read_bytes() == b"a picture of a cat, say" * 100


def test_a_full_disk_says_so_and_leaves_the_ledger_whole(place: Path) -> None:
    ledger = Ledger.open(place)
    with ledger.write() as connection:
        watermarks.put(connection, "flights", "position", 1)
        # The limit makes SQLite answer as it does when the disk is full.
        pages = connection.execute(text("PRAGMA page_count")).scalar_one()
        connection.execute(text(f"PRAGMA max_page_count={pages}"))

    def fill() -> None:
        with ledger.write() as connection:
            watermarks.put(connection, "flights", "position", 2)
            watermarks.put(connection, "flights", "large", "x" * 1_000_000)

    with pytest.raises(StoreFull, match="no space left"):
        fill()
    with ledger.read() as connection:
        assert watermarks.get(connection, "flights", "position") == 1
    ledger.close()


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="only root can mount a small disk")
def test_a_disk_that_is_really_full_says_so(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        ledger = Ledger.open(disk / "ledger.sqlite")

        def fill() -> None:
            for number in range(100):
                with ledger.write() as connection:
                    watermarks.put(connection, "flights", f"large {number}", "x" * 50_000)

        with pytest.raises(StoreFull, match="no space left"):
            fill()
        ledger.close()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_the_deepest_mount_decides() -> None:
    table = (
        "overlay / overlay rw 0 0\n"
        "server:/home /home nfs4 rw 0 0\n"
        "/dev/sda1 /home/local ext4 rw 0 0\n"
        "me@host:/x /mnt/with\\040space fuse.sshfs rw 0 0\n"
        "tmpfs /data tmpfs rw 0 0\n"
        "//share/x /data cifs rw 0 0\n"
    )
    assert mounts.kind_of(Path("/srv/a"), table) == "overlay"
    assert mounts.kind_of(Path("/home/ada/.everloop/ledger.sqlite"), table) == "nfs4"
    assert mounts.kind_of(Path("/home/local/x"), table) == "ext4"
    assert mounts.kind_of(Path("/homeless/x"), table) == "overlay"
    assert mounts.kind_of(Path("/mnt/with space/x"), table) == "fuse.sshfs"
    assert mounts.kind_of(Path("/data/x"), table) == "cifs"


def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "mounts"
    table.write_text(f"server:/x {tmp_path} nfs4 rw 0 0\n")
    monkeypatch.setattr(mounts, "MOUNTS", table)
    with pytest.raises(StoreError, match=r"network file system \(nfs4\).*local disk"):
        Ledger.open(tmp_path / "ledger.sqlite")
    assert not (tmp_path / "ledger.sqlite").exists()


def test_every_table_and_the_search_for_work_have_a_form_in_postgres() -> None:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    for table in metadata.sorted_tables:
        made = str(CreateTable(table).compile(dialect=dialect))
        assert "sequence BIGSERIAL" in made or "sequence" not in made
        for index in table.indexes:
            CreateIndex(index).compile(dialect=dialect)
    for query in (journal.WORKABLE, journal.WORKABLE_OF_LOOP, journal.RECORD):
        query.compile(dialect=dialect)
