"""What a served graph takes and gives."""

from dataclasses import dataclass

from everloop.forms import Image
from everloop.records.kinds import ColumnType, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class InputColumn:
    """A raw column that the graph takes. ``index`` is its place in the packed input of its kind."""

    name: str
    type: ColumnType
    index: int
    time_zone: str | None = None
    """For an instant: the zone that naive text is read in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorColumn:
    """A column that is a whole array in each row: an image, token ids. A request must bring it; it is never missing."""

    name: str
    datatype: str
    """As the Open Inference Protocol V2 names it: FP64, FP32, FP16, INT8 … INT64, UINT8 … UINT64, BOOL."""
    shape: tuple[int, ...]
    """Of one row, for example (3, 64, 64)."""
    image: Image | None = None
    """A request brings the bytes of a PNG or JPEG file, and the server makes the array of them: UINT8 [height, width,
    channels]."""
    probe: tuple[int, ...] = ()
    """What the trainer's decoder made of a known image (`everloop.measure.images.probed`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What a graph takes and gives.

    Graph inputs (each only if it has columns): ``numbers`` float64 [rows, n], NaN missing; ``integers`` int64
    [rows, n] for integers, booleans and instants, `MISSING_INTEGER` missing; ``texts`` string [rows, n],
    `MISSING_TEXT` missing; and one input [rows, *shape] for each of ``tensors``, named as the column.
    Graph outputs: ``prediction`` float64 [rows, classes] probabilities, or [rows, 1] for regression; and for
    classification ``decision`` int64 [rows], the index into ``classes``.
    """

    inputs: tuple[InputColumn, ...]
    task: Task
    classes: tuple[bool | int | float | str, ...] = ()
    positive: int | None = None
    """Binary: the index of the positive class."""
    key: tuple[str, ...] = ()
    event_time: str | None = None
    carried: tuple[InputColumn, ...] = ()
    """Columns a request may bring besides ``inputs`` (of the key, the event time, the unit): read and typed, not given
    to the graph; their ``index`` is −1. One that is named above but not here is taken as any JSON scalar."""
    tensors: tuple[TensorColumn, ...] = ()

    def of(self, *types: ColumnType) -> tuple[InputColumn, ...]:
        return tuple(c for c in self.inputs if c.type in types)
