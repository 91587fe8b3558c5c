"""Named arrays with one entry a row: what a network sees. Knows nothing of networks or of where the values lie."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from everloop.forms import Special

Places = npt.NDArray[np.int64]


class Column(Protocol):
    """What stands under a name: an array, or what makes one for the rows that are asked for (images read from files)."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> Any: ...

    def __getitem__(self, places: Places) -> npt.NDArray[Any]:
        """The entries of these rows, in their order."""
        ...


class Tensors(Mapping[str, Column]):
    """Columns of one length by name.

    ``columns``: float32 [rows, width], all numbers, booleans and categories; an image under its own name: float32
    [rows, 3, height, width]; tokens under their own name: int64 [rows, length], padded as ``special`` says (by default
    with 0).

    >>> table = Tensors({"columns": np.zeros((3, 2), dtype=np.float32)})
    >>> len(table.taken(np.array([0, 2]))["columns"]), table.rows, table.shapes
    (2, 3, {'columns': (2,)})
    """

    def __init__(self, columns: Mapping[str, Column], special: Mapping[str, Special] | None = None) -> None:
        self._columns = dict(columns)
        self.special = dict(special or {})
        lengths = {name: each.shape[0] for name, each in self._columns.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"tensors of one length are needed, and there are {lengths}")
        self.rows: int = next(iter(lengths.values()))

    def __getitem__(self, name: str) -> Column:
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        """How many columns there are, as of any mapping; `rows` is how long they are."""
        return len(self._columns)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of one row."""
        return {name: tuple(each.shape[1:]) for name, each in self._columns.items()}

    def batch(self, places: Places) -> dict[str, npt.NDArray[Any]]:
        """The entries of these rows, made now, each in one piece."""
        return {name: np.ascontiguousarray(each[places]) for name, each in self._columns.items()}

    def taken(self, places: Places) -> "Tensors":
        """Only these rows; a column that makes its entries makes them later still."""
        return Tensors(
            {
                name: each[places] if isinstance(each, np.ndarray) else Part(each, places)
                for name, each in self._columns.items()
            },
            self.special,
        )


class Part:
    """Some rows of a column that makes its entries when they are asked for."""

    def __init__(self, whole: Column, places: Places) -> None:
        self.whole, self._places = whole, places

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self._places), *self.whole.shape[1:])

    @property
    def dtype(self) -> Any:
        return self.whole.dtype

    def __getitem__(self, places: Places) -> npt.NDArray[Any]:
        return self.whole[self._places[places]]

    def ahead(self, places: Places) -> None:
        """Begin with these rows, where the column can."""
        begin = getattr(self.whole, "ahead", None)
        if begin is not None:
            begin(self._places[places])
