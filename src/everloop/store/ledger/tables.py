"""The tables of the ledger, as SQLAlchemy Core knows them. Knows nothing of who fills them.

Instants are int64 microseconds since 1970 in UTC; a record is canonical JSON (`everloop.records.encode`); the other
columns repeat from it what is looked up. A change here needs a migration in ``migrations/versions`` and a new
``HEAD`` in ``migrate``; a test compares the two.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

# SQLite numbers rows by itself only for INTEGER; 2⁶³ of them are no narrower there than elsewhere.
Sequence = BigInteger().with_variant(Integer, "sqlite")

loops = Table(
    "loops",
    metadata,
    Column("name", Text, primary_key=True),
    Column("spec", LargeBinary, nullable=False),
    Column("digest", Text, nullable=False),
    Column("folder", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
)

batches = Table(
    "batches",
    metadata,
    Column("sequence", Sequence, primary_key=True, autoincrement=True),
    Column("loop", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("refused", Boolean, nullable=False),
    Column("record", Text, nullable=False),
    UniqueConstraint("loop", "digest"),
)

snapshots = Table(
    "snapshots",
    metadata,
    Column("sequence", Sequence, primary_key=True, autoincrement=True),
    Column("digest", Text, nullable=False, unique=True),
    Column("loop", Text, nullable=False, index=True),
    Column("record", Text, nullable=False),
)

candidates = Table(
    "candidates",
    metadata,
    Column("sequence", Sequence, primary_key=True, autoincrement=True),
    Column("digest", Text, nullable=False, unique=True),
    Column("loop", Text, nullable=False, index=True),
    Column("record", Text, nullable=False),
)

versions = Table(
    "versions",
    metadata,
    Column("loop", Text, primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("package", Text, nullable=False, index=True),
    Column("record", Text, nullable=False),
    UniqueConstraint("loop", "package"),
)

# One row a revision: the newest is what serves, the others are the history. The key is the compare-and-swap.
releases = Table(
    "releases",
    metadata,
    Column("loop", Text, primary_key=True),
    Column("revision", BigInteger, primary_key=True, autoincrement=False),
    Column("at", BigInteger, nullable=False),
    Column("record", Text, nullable=False),
)

# Named for ever: an experiment's name and salt say which arm an id had, long after it ended.
experiments = Table(
    "experiments",
    metadata,
    Column("loop", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("started", BigInteger, nullable=False),
    Column("stopped", BigInteger),
    Column("record", Text, nullable=False),
)

decisions = Table(
    "decisions",
    metadata,
    Column("sequence", Sequence, primary_key=True, autoincrement=True),
    Column("loop", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("action", Text, nullable=False),
    Column("version", BigInteger),
    Column("revision", BigInteger),
    Column("run", Text),
    Column("record", Text, nullable=False),
    Index(None, "loop", "at"),
)

# An episode of a rule that was broken. Few are unsettled at a time; those are what a look asks for.
alerts = Table(
    "alerts",
    metadata,
    Column("loop", Text, primary_key=True),
    Column("fingerprint", Text, primary_key=True),
    Column("began", BigInteger, primary_key=True, autoincrement=False),
    Column("settled", Boolean, nullable=False),
    Column("record", Text, nullable=False),
    Index(None, "loop", "settled", "began"),
)

silences = Table(
    "silences",
    metadata,
    Column("loop", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("until", BigInteger, nullable=False),
    Column("record", Text, nullable=False),
)

watermarks = Table(
    "watermarks",
    metadata,
    Column("loop", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

runs = Table(
    "runs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("loop", Text, nullable=False),
    Column("key", Text, unique=True),
    Column("arguments", Text, nullable=False),
    Column("code", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("submitted", BigInteger, nullable=False),
    Column("due", BigInteger),
    Column("updated", BigInteger, nullable=False),
    Column("owner", Text),
    Column("lease", BigInteger),
    Column("fence", BigInteger, nullable=False),
    Column("waiting", Text),
    Column("progress", Text),
    Column("result", Text),
    Column("because", Text),
    Column("accepts", Boolean, nullable=False),
    Column("forked_from", Text),
    Index(None, "status", "due"),
    Index(None, "loop", "submitted"),
)

steps = Table(
    "steps",
    metadata,
    Column("run", Text, primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("name", Text, nullable=False),
    Column("result", Text, nullable=False),
    Column("started", BigInteger, nullable=False),
    Column("ended", BigInteger, nullable=False),
    Column("fence", BigInteger, nullable=False),
)

signals = Table(
    "signals",
    metadata,
    Column("sequence", Sequence, primary_key=True, autoincrement=True),
    Column("run", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("payload", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("taken_by", Integer),
    Index(None, "run", "name"),
)

# The last tick of each schedule that was followed or skipped.
schedules = Table(
    "schedules",
    metadata,
    Column("name", Text, primary_key=True),
    Column("last", BigInteger, nullable=False),
)
