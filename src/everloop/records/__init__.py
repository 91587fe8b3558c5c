"""The nouns that travel between rooms, as frozen values. Knows nothing of where they are kept or who makes them.

Every record is JSON through `encode` and `decode`; instants are aware and in UTC.
"""

from everloop.records.alert import Alert, AlertMessage, Silence
from everloop.records.canonical import decode, digest_of, encode
from everloop.records.counts import ArmCounts, GuardEvidence, PairedCounts, ReleaseEvidence
from everloop.records.encoding import Category, Encoding, FeatureEncoding, Scaling
from everloop.records.evidence import Evidence, Verdict
from everloop.records.kinds import LOOP_NAME, MISSING_INTEGER, MISSING_TEXT, Arm, ColumnType, FeatureType, Stage, Task
from everloop.records.release import Decision, Experiment, ExperimentArm, Release, Route, RouteArm
from everloop.records.rows import Batch, Outcome, Snapshot
from everloop.records.signature import InputColumn, Signature, TensorColumn
from everloop.records.version import Candidate, Version

__all__ = [
    "LOOP_NAME",
    "MISSING_INTEGER",
    "MISSING_TEXT",
    "Alert",
    "AlertMessage",
    "Arm",
    "ArmCounts",
    "Batch",
    "Candidate",
    "Category",
    "ColumnType",
    "Decision",
    "Encoding",
    "Evidence",
    "Experiment",
    "ExperimentArm",
    "FeatureEncoding",
    "FeatureType",
    "GuardEvidence",
    "InputColumn",
    "Outcome",
    "PairedCounts",
    "Release",
    "ReleaseEvidence",
    "Route",
    "RouteArm",
    "Scaling",
    "Signature",
    "Silence",
    "Snapshot",
    "Stage",
    "Task",
    "TensorColumn",
    "Verdict",
    "Version",
    "decode",
    "digest_of",
    "encode",
]
