"""Features that are more than one value: ``column.text(…)``. Knows nothing of how they are calculated.

They end a feature: nothing is calculated with what they give.
"""

from collections.abc import Mapping
from math import isfinite
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from everloop.errors import SpecError
from everloop.forms import FORMS, Form, Image
from everloop.spec.tree import Call, FeatureTree, Input

if TYPE_CHECKING:
    from everloop.spec.expression import Column

MOST_FEATURES = 1_000_000
LONGEST = 100_000
LARGEST_GRAM = 8
LARGEST_SIDE = 4096


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

    def tokens(
        self: Any,
        length: int,
        *,
        vocabulary: int = 20_000,
        analyzer: str = "word",
        lowercase: bool = True,
        tokenizer: str | None = None,
    ) -> "Column":
        """Free text as token ids int64 [length], for networks: 0 padding, 1 unknown, learned tokens from 2 on.

        ``vocabulary``: at most so many tokens are learned at each fit, those of most texts, so that an embedding needs
        ``vocabulary + 2`` places. ``analyzer``, ``lowercase``: as in `text`. What is beyond ``length`` is cut off.

        ``tokenizer``: nothing is learned; the ids are those of this ``tokenizer.json`` (WordPiece, BPE, Unigram), or of
        the one in this folder beside the declaration, with its special tokens: what pretrained weights ask for. Raises
        SpecError for it on anything but a column of the source, or beside the other options.
        """
        _one_of(self, "tokens", "analyzer", analyzer, ("word", "char"))
        given: dict[str, Any] = {}  # absent it stays absent: a declaration without one keeps its digest
        if tokenizer is not None:
            _tokenizer(self, tokenizer, plain=(vocabulary, analyzer, lowercase) == (20_000, "word", True))
            given["tokenizer"] = str(tokenizer)
        return self._call(  # type: ignore[no-any-return]
            "tokens",
            **given,
            length=_count(self, "tokens", "length", length, 1, LONGEST),
            vocabulary=_count(self, "tokens", "vocabulary", vocabulary, 1, MOST_FEATURES),
            analyzer=analyzer,
            lowercase=_flag(self, "tokens", "lowercase", lowercase),
        )

    def image(
        self: Any,
        height: int,
        width: int,
        *,
        channels: int = 3,
        fit: str = "stretch",
        mean: float | tuple[float, ...] = 0.5,
        deviation: float | tuple[float, ...] = 0.5,
    ) -> "Column":
        """The image in a column of bytes (PNG or JPEG) as float32 [channels, height, width]; [-1, 1] by default.

        Decoded and resized (bilinear, antialiased) by the same code for training and answers. ``channels``: 3 (RGB) or
        1 (grey). ``fit``: "stretch", or "cover", which keeps proportions. ``mean``, ``deviation``: of values from 0 to
        1, one for all channels or one each. An estimator sees one column a value.
        """
        if not isinstance(self._node, Input):
            raise SpecError(
                f"{self!r}.image() needs a column of the source as it stands, for example row.photo.image()."
            )
        if channels not in (1, 3) or type(channels) is not int:
            raise SpecError(f"{self!r}.image(channels={channels!r}) is neither 3 (RGB) nor 1 (grey).")
        _one_of(self, "image", "fit", fit, ("stretch", "cover"))
        wide = _channels(self, "deviation", deviation, channels)
        if min(wide) <= 0:
            raise SpecError(f"{self!r}.image(deviation={deviation!r}) needs numbers above 0.")
        return self._call(  # type: ignore[no-any-return]
            "image",
            height=_count(self, "image", "height", height, 1, LARGEST_SIDE),
            width=_count(self, "image", "width", width, 1, LARGEST_SIDE),
            channels=channels,
            fit=fit,
            mean=_channels(self, "mean", mean, channels),
            deviation=wide,
        )


def forms_of(tree: FeatureTree) -> dict[str, Form]:
    """Of each feature that is more than one value what it is."""
    found: dict[str, Form] = {}
    for name, node in tree.columns:
        if isinstance(node, Call) and node.operation in FORMS:
            options: Mapping[str, Any] = dict(node.options)
            found[name] = FORMS[node.operation](**options)
    return found


def images_of(tree: FeatureTree) -> dict[str, Image]:
    """Of each column of bytes how its images are decoded. Raises SpecError where two features differ in that."""
    found: dict[str, Image] = {}
    for name, node in tree.columns:
        form = forms_of(FeatureTree(columns=((name, node),))).get(name)
        if isinstance(form, Image) and isinstance(node, Call) and isinstance(node.arguments[0], Input):
            column = node.arguments[0].name
            if found.setdefault(column, form).pixels != form.pixels:
                raise SpecError(
                    f"The feature {name!r} decodes the column {column!r} otherwise than another feature does; write "
                    "the same height, width, channels and fit for both."
                )
    return found


def _tokenizer(column: Any, path: Any, *, plain: bool) -> None:
    if not isinstance(path, str | PurePath) or not str(path):
        raise SpecError(
            f'{column!r}.tokens(tokenizer={path!r}) is no path; write that of a folder, for example "weights/bert-tiny".'
        )
    if not plain:
        raise SpecError(
            f"{column!r}.tokens(tokenizer={str(path)!r}) has its own vocabulary and its own idea of a word; leave "
            "vocabulary, analyzer and lowercase out."
        )
    if not isinstance(column._node, Input):
        raise SpecError(
            f"{column!r}.tokens(tokenizer={str(path)!r}) needs a column of the source as it stands, for example "
            "row.body.tokens(128, tokenizer=…)."
        )


def _channels(column: Any, name: str, value: Any, channels: int) -> tuple[float, ...]:
    values = (value,) * channels if isinstance(value, int | float) else value
    sound = isinstance(values, list | tuple) and len(values) == channels
    if not sound or not all(isinstance(each, int | float) and isfinite(each) for each in values):
        raise SpecError(f"{column!r}.image({name}={value!r}) needs a number, or one for each of {channels} channels.")
    return tuple(float(each) for each in values)


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
