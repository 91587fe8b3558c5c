"""What a column, a feature, a task and a stage may be, and how a missing value stands in an array."""

import re
from typing import Literal

ColumnType = Literal["number", "integer", "boolean", "text", "instant", "bytes"]
"""number: float64. integer: int64. instant: int64 microseconds since 1970 in UTC. bytes: of a file, for example an image.
Each may be missing."""

FeatureType = Literal["number", "integer", "boolean", "text", "instant", "bytes", "terms", "tokens", "image"]
"""What a feature may be: a value, or more than one (`everloop.forms`)."""

Task = Literal["binary", "multiclass", "regression"]
Stage = Literal["empty", "steady", "shadow", "canary"]
Arm = Literal["champion", "challenger"]

MISSING_INTEGER = -(2**63)
"""How a missing integer, boolean or instant stands in an int64 array (numpy's NaT). Numbers use NaN."""
MISSING_TEXT = "\x00"
"""How a missing text stands in an array of strings; a client that sends it is refused."""

LOOP_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
"""It stands in paths, file names and metric labels: nothing else may."""
