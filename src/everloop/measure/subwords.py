"""Texts as token ids by a given ``tokenizer.json``: WordPiece, BPE, Unigram, as pretrained weights were trained with.

The library `tokenizers` does it for training and for answers alike, before the graph; it is imported when the first such
text comes. The content travels inside the package, with the ids of some texts: `Step` refuses where this machine's library
makes other ids of them. Knows nothing of networks or requests.
"""

import json
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everloop.errors import PackageError, TrainError
from everloop.forms import Special, Tokens, TokenTable
from everloop.records import MISSING_TEXT

FILE = "tokenizer.json"
LETTERS = 64
"""So many letters a token are looked at: what a text holds beyond cannot become one of its ids, however long it is."""
PADDINGS = ("[PAD]", "<pad>", "<PAD>", "<|pad|>", "<|padding|>", "<|endoftext|>", "</s>")
"""Names that a padding token goes by; the last two end a text and stand for it where there is no other."""
NOTE = "everloop.tokenizers"
"""The name under which a graph says which of its inputs are made of texts, and how."""
PROBES = (
    "",
    "The cat's 2nd hat cost $3.50 -- unbelievable!",
    "NAÏVE Straße İI e\u0301 日本語 \U0001f600\u200d\U0001f9d1\tnew\nline [SEP] <|endoftext|>",
)
"""Texts whose ids tell two libraries apart: accents, alphabets, signs that go together, what looks like a special token."""


def table(form: Tokens, folder: Path) -> TokenTable:
    """Raises TrainError where there is no such file, or it cannot be used."""
    assert form.tokenizer is not None
    place = folder / form.tokenizer
    place = place / FILE if place.is_dir() else place
    shown = f"tokens(tokenizer={form.tokenizer!r})"
    try:
        content = place.read_text("utf-8")
    except FileNotFoundError:
        raise TrainError(
            f"{shown}: there is no {FILE} there; give the folder in which a fast tokenizer was saved "
            f"(AutoTokenizer.from_pretrained(…).save_pretrained(folder)), or its {FILE}, beside the declaration."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise TrainError(f"{shown}: {place.name} cannot be read: {error}.") from None
    try:
        opened = _opened(content, form.length)
    except ImportError as error:
        raise TrainError(f"{shown}: {error}") from error
    except Unusable as problem:
        raise TrainError(f"{shown}: {place.name} {problem}") from None
    return TokenTable(form=form, values=(), size=opened.get_vocab_size(), special=_special(opened), tokenizer=content)


def _special(opened: Any) -> Special:
    padding = opened.padding["pad_id"]
    unknown = opened.token_to_id(getattr(opened.model, "unk_token", None) or "")
    marks = {place for place, token in opened.get_added_tokens_decoder().items() if token.special}
    return Special(
        padding=padding,
        unknown=padding if unknown is None else unknown,
        marks=tuple(sorted(marks - {padding, unknown})),
    )


class Unusable(ValueError):
    """A tokenizer that gives no ids; says why."""


def ids(content: str, length: int, texts: Sequence[str | None]) -> NDArray[np.int64]:
    """int64 [texts, length], special tokens as the tokenizer adds them; a missing text is as an empty one."""
    made = _opened(content, length).encode_batch([_shown(each, length) for each in texts])
    return np.array([each.ids for each in made], np.int64).reshape(len(texts), length)


def spelled(content: str, length: int, text: str | None) -> tuple[str, ...]:
    """The tokens of one text as the tokenizer writes them, special ones with them, without what only fills up."""
    made = _opened(content, length).encode(_shown(text, length))
    return tuple(token for token, there in zip(made.tokens, made.attention_mask, strict=True) if there)


def probed(content: str, length: int) -> list[list[int]]:
    """What this machine's library makes of `PROBES`."""
    return ids(content, length, PROBES).tolist()  # type: ignore[no-any-return]


class Step:
    """One input of a graph: the ids of the text column at ``index`` of the input ``texts``."""

    def __init__(self, *, input: str, index: int, length: int, content: str, probe: Sequence[Sequence[int]]) -> None:
        """Raises PackageError where the library is not there, or makes other ids than it did for the trainer."""
        self.input, self.index, self.length = input, index, length
        self._content = content
        try:
            found = probed(content, length)
        except (ImportError, Unusable) as error:
            raise PackageError(f"The input {input!r} needs its tokenizer: {error}") from None
        if found != [list(each) for each in probe]:
            raise PackageError(
                f"The tokenizer of {input!r} makes other ids here than when the model was fitted; install the version of "
                "tokenizers that the package's requirements name."
            )

    def ids(self, texts: NDArray[Any]) -> NDArray[np.int64]:
        """``texts``: [rows, columns] of str objects."""
        return ids(self._content, self.length, texts[:, self.index].tolist())


def note(steps: Sequence[Mapping[str, Any]]) -> str:
    """What `steps_of` reads: of each step the arguments of `Step`, but for the probe, which is made here."""
    return json.dumps([{**each, "probe": probed(each["content"], each["length"])} for each in steps])


def steps_of(metadata: Mapping[str, str]) -> tuple[Step, ...]:
    """The steps that a graph asks for. Raises PackageError."""
    written = metadata.get(NOTE)
    if written is None:
        return ()
    try:
        return tuple(Step(**each) for each in json.loads(written))
    except (ValueError, TypeError, KeyError) as error:
        raise PackageError(f"What the graph says of its tokenizers cannot be read: {error}.") from None


def added(steps: Sequence[Step], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs of a graph, with those that are made of its texts."""
    return {**inputs, **{each.input: each.ids(inputs["texts"]) for each in steps}}


def _shown(text: str | None, length: int) -> str:
    return "" if text is None or text == MISSING_TEXT else text[: LETTERS * length]


@lru_cache(maxsize=8)
def _opened(content: str, length: int) -> Any:
    os.environ.setdefault(
        "TOKENIZERS_PARALLELISM", "false"
    )  # the cores are others', and a fork must not find its threads
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ImportError("tokenizers is not installed: pip install 'everloop[tokens]'.") from error
    try:
        found = Tokenizer.from_str(content)
    except Exception as error:  # the library raises Exception itself
        raise Unusable(f"is no tokenizer: {str(error).splitlines()[0]:.200}") from None
    names = [found.padding["pad_token"]] if found.padding else []
    padding = next((each for each in (*names, *PADDINGS) if found.token_to_id(each) is not None), None)
    if padding is None:
        raise Unusable(
            f"has no padding token (looked for {', '.join(PADDINGS)}); add one to it: "
            'tokenizer.add_special_tokens(["<pad>"]), then save it again.'
        )
    found.enable_padding(length=length, pad_id=found.token_to_id(padding), pad_token=padding)
    try:
        found.enable_truncation(max_length=length)
    except Exception as error:  # as above
        raise Unusable(f"cannot cut texts to {length} tokens: {str(error).splitlines()[0]:.200}") from None
    return found
