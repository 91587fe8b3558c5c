"""How features become an estimator's matrix, as it was learned. Knows nothing of who applies it."""

from dataclasses import dataclass
from typing import ClassVar

from everloop.forms import Image, TermTable, TokenTable
from everloop.records.kinds import FeatureType


@dataclass(frozen=True, slots=True, kw_only=True)
class Category:
    """A learned table for one text feature. Missing and unseen each have a place of their own."""

    values: tuple[str, ...]
    """Known values, most frequent first; the code of a value is its position."""
    one_hot: bool
    """False: one column of codes (known 0…K-1, missing K, unseen K+1). True: K+2 columns of 0 and 1 in that order."""
    rare: tuple[str, ...] = ()
    """Values seen in training but too rarely: with ``one_hot`` they share the unseen place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """(number − ``centre``) × ``factor``, held between −`WIDEST` and `WIDEST`. Calculated in float64."""

    centre: float
    factor: float

    WIDEST: ClassVar[float] = 10.0
    """Standard deviations: a number that is farther out would drive a network to where it has learned nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureEncoding:
    """How one feature becomes estimator columns: by a table where there is one, else as a number (NaN where missing)."""

    name: str
    type: FeatureType
    category: Category | None = None
    fill: float | None = None
    """For estimators that refuse NaN: what a missing number becomes. None: NaN stays."""
    terms: TermTable | None = None
    scaling: Scaling | None = None
    """For networks: numbers around 0, each about as wide as the next."""
    indicator: bool = False
    """For networks: one more column, 1 where the number is missing. All of these stand behind all others."""
    image: Image | None = None
    tokens: TokenTable | None = None

    @property
    def width(self) -> int:
        """How many columns of the matrix it is."""
        if self.terms is not None:
            return len(self.terms.values)
        if self.image is not None:
            return self.image.channels * self.image.height * self.image.width
        return (
            len(self.category.values) + 2 if self.category is not None and self.category.one_hot else 1 + self.indicator
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """How the features become the estimator's matrix [rows, width], values rounded to float32."""

    features: tuple[FeatureEncoding, ...]
    network: bool = False
    """A network sees the matrix as its tensor ``columns``, beside others under names of their own."""

    @property
    def width(self) -> int:
        return sum(each.width for each in self.features)

    @property
    def flat(self) -> "Encoding":
        """The features that become columns of the matrix: for a network not those that are tensors of their own."""
        if not self.network:
            return self
        own = tuple(each for each in self.features if each.image is None and each.tokens is None)
        return Encoding(features=own, network=True)

    @property
    def sparse(self) -> bool:
        """Whether most of the matrix is 0, so that it is kept by rows of what is not (scipy's CSR)."""
        return any(each.terms is not None for each in self.features)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the matrix columns, for importances and for a person."""
        names: list[str] = []
        for each in self.features:
            if each.category and each.category.one_hot:
                names += [f"{each.name}={value}" for value in each.category.values]
                names += [f"{each.name} missing", f"{each.name} unseen"]
            elif each.terms is not None:
                names += [f"{each.name}: {value}" for value in each.terms.values]
            elif each.image is not None:
                names += [f"{each.name} pixel {place}" for place in range(each.width)]
            else:
                names.append(each.name)
        return (*names, *(f"{each.name} missing" for each in self.features if each.indicator))
