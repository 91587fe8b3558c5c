"""Features that are more than one value: ``column.text(…)``. Knows nothing of how they are calculated.

They end a feature: nothing is calculated with what they give.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from everloop.errors import SpecError
from everloop.forms import FORMS, Form
from everloop.spec.tree import Call, FeatureTree

if TYPE_CHECKING:
    from everloop.spec.expression import Column

MOST_FEATURES = 1_000_000
LONGEST = 100_000
LARGEST_GRAM = 8


class Wholes:
    """Base of `everloop.spec.expression.Column`."""

    __slots__ = ()

    def text(
        self: Any,
        *,
        analyzer: str = "word",
        ngram_range: tuple[int, int] = (1, 1),
        max_features: int = 50_000,
        min_df: int = 2,
        lowercase: bool = True,
        sublinear_tf: bool = True,
    ) -> "Column":
        """Free text as TF-IDF: one column a term, learned at each fit; each row has length 1, without terms 0.

        ``analyzer``: "word" (letters and digits that stand together) or "char". ``ngram_range``: fewest and most of
        them in a term. ``max_features``: the terms found in most rows, at least in ``min_df``. ``sublinear_tf``:
        1 + log(count) instead of count. The weights are scikit-learn's ``TfidfVectorizer`` (smoothed idf, l2).
        """
        _one_of(self, "text", "analyzer", analyzer, ("word", "char"))
        pair = tuple(ngram_range) if isinstance(ngram_range, list | tuple) else ()
        whole = len(pair) == 2 and all(type(each) is int for each in pair)
        if not whole or not 1 <= pair[0] <= pair[1] <= LARGEST_GRAM:
            raise SpecError(
                f"{self!r}.text(ngram_range={ngram_range!r}) is no range; write (fewest, most), 1 to {LARGEST_GRAM}, "
                "for example (1, 2)."
            )
        return self._call(  # type: ignore[no-any-return]
            "terms",
            analyzer=analyzer,
            ngram_range=pair,
            max_features=_count(self, "text", "max_features", max_features, 1, MOST_FEATURES),
            min_df=_count(self, "text", "min_df", min_df, 1, MOST_FEATURES),
            lowercase=_flag(self, "text", "lowercase", lowercase),
            sublinear_tf=_flag(self, "text", "sublinear_tf", sublinear_tf),
        )


def forms_of(tree: FeatureTree) -> dict[str, Form]:
    """Of each feature that is more than one value what it is."""
    found: dict[str, Form] = {}
    for name, node in tree.columns:
        if isinstance(node, Call) and node.operation in FORMS:
            options: Mapping[str, Any] = dict(node.options)
            found[name] = FORMS[node.operation](**options)
    return found


def _count(column: Any, method: str, name: str, value: Any, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise SpecError(f"{column!r}.{method}({name}={value!r}) needs an integer from {least} to {most:,}.")
    return value


def _flag(column: Any, method: str, name: str, value: Any) -> bool:
    if type(value) is not bool:
        raise SpecError(f"{column!r}.{method}({name}={value!r}) needs True or False.")
    return value


def _one_of(column: Any, method: str, name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise SpecError(f"{column!r}.{method}({name}={value!r}) is unknown; write {' or '.join(map(repr, allowed))}.")
