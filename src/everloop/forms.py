"""Features that are more than one value: the terms of a text, its token ids, an image. What is declared and what is learned.

Knows nothing of how they are calculated: `everloop.measure.terms`, `.tokens` and `.images` do it for training, the
served graph (and for images the server's own step) for answers.
"""

from dataclasses import dataclass
from typing import Any, Literal

Analyzer = Literal["word", "char"]
PADDING, UNKNOWN, FIRST = 0, 1, 2
"""Token ids: padding, a token that the vocabulary does not hold, the first one that it does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """A text as weights of its words or letters and their n-grams: TF-IDF, each row of length 1."""

    analyzer: Analyzer
    ngram_range: tuple[int, int]
    max_features: int
    min_df: int
    lowercase: bool
    sublinear_tf: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """A text as ``length`` token ids, int64, padded at the end and cut there.

    The ids are those of a learned vocabulary, or of the ``tokenizer`` that somebody's weights were trained with; the
    latter is a step of its own before the graph, as images are (`everloop.measure.subwords`).
    """

    length: int
    vocabulary: int
    """At most so many learned tokens, beside padding and unknown."""
    analyzer: Analyzer
    lowercase: bool
    tokenizer: str | None = None
    """The path of a ``tokenizer.json``, or of a folder that holds one, beside the declaration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image as float32 [channels, height, width]: resized, from 0 to 1, then ``(value - mean) / deviation``.

    Decoding and resizing is a step of its own, before the graph, by the same code for training and answers
    (`everloop.measure.images`); the graph begins with uint8 [height, width, channels].
    """

    height: int
    width: int
    channels: int
    fit: Literal["stretch", "cover"]
    """``stretch`` ignores the image's proportions; ``cover`` keeps them and cuts off what stands out."""
    mean: tuple[float, ...]
    """One a channel."""
    deviation: tuple[float, ...]

    @property
    def pixels(self) -> tuple[int, int, int, str]:
        """What is decoded: two features may share it."""
        return self.height, self.width, self.channels, self.fit


Form = Terms | Tokens | Image
FORMS: dict[str, type[Any]] = {"terms": Terms, "tokens": Tokens, "image": Image}
"""By the type of the feature."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TermTable:
    """Learned: which terms are columns, most rows first, and their inverse document frequency."""

    form: Terms
    values: tuple[str, ...]
    """Words of an n-gram are joined by a space, letters stand as they are."""
    idf: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Special:
    """Ids that stand for no word of a text."""

    padding: int = PADDING
    unknown: int = UNKNOWN
    """The padding's where a tokenizer knows every text."""
    marks: tuple[int, ...] = ()
    """All others, such as those of a text's beginning and end."""

    @property
    def all(self) -> tuple[int, ...]:
        return (self.padding, *self.marks)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenTable:
    """Learned: which tokens have an id, in the order of their ids. Or the content of the tokenizer that was given."""

    form: Tokens
    values: tuple[str, ...]
    """The token at place i has the id i + 2; empty with a tokenizer."""
    size: int
    """How many ids there are: each id is below."""
    special: Special = Special()
    tokenizer: str = ""
    """The whole of its ``tokenizer.json``."""
