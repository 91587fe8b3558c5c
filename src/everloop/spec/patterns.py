r"""Regular expressions that mean the same in every engine we run them in. Knows nothing of where they are used.

polars runs Rust's regex, the served graph RE2. Both take the subset below; where they differ (``\d``, ``\w``, ``\s`` are
Unicode in one and ASCII in the other) the pattern is rewritten, so that the ASCII meaning holds in both.
"""

import re

from everloop.errors import SpecError

_META = set("\\.+*?()|[]{}^$")
_CLASS_META = set("\\[]^-&~#|")
_SHORTHAND = {"d": "0-9", "w": "0-9A-Za-z_", "s": "\\t\\n\\f\\r "}
_CONTROL = {"t": "\\t", "n": "\\n", "r": "\\r", "f": "\\f", "v": "\\x0B"}


def quote(text: str) -> str:
    """A pattern that matches exactly this text."""
    return "".join("\\" + each if each in _META else each for each in text)


def portable(pattern: str) -> str:
    r"""The pattern in the form both engines read alike; raises SpecError for what one of them cannot do.

    Taken: characters, ``.``, classes ``[a-z]``, ``\d \w \s \D \W \S \t \n \r``, escaped punctuation, groups, ``|``,
    ``* + ? {m,n}`` and their lazy forms, ``^ $``. Refused: look-around, back references, ``\b``, flags, named classes.

    >>> portable(r"[A-Z]{2}\d+")
    '[A-Z]{2}[0-9]+'
    """
    if not isinstance(pattern, str):
        raise SpecError(f'a pattern is text, not {type(pattern).__name__}; write it as r"…"')
    try:
        re.compile(pattern)
    except re.error as problem:
        raise SpecError(f"the pattern {pattern!r} is not a regular expression: {problem}") from None
    if "\x00" in pattern:
        raise SpecError(f"the pattern {pattern!r} contains the character NUL; leave it out")
    written: list[str] = []
    at = 0
    while at < len(pattern):
        text, at = _token(pattern, at)
        written.append(text)
    return "".join(written)


def _refuse(pattern: str, what: str, instead: str) -> SpecError:
    return SpecError(f"the pattern {pattern!r} uses {what}, which cannot be served; {instead}")


def _token(pattern: str, at: int) -> tuple[str, int]:
    here = pattern[at]
    if here == "\\":
        return _escape(pattern, at)
    if here == "[":
        return _class(pattern, at)
    if here == "(":
        if pattern.startswith("(?:", at):
            return "(?:", at + 3
        if pattern.startswith("(?", at):
            raise _refuse(
                pattern, pattern[at : at + 3], "only plain groups (…) and (?:…) are; for case use .str.lower()"
            )
        return "(?:", at + 1
    if here in "*+?":
        if pattern[at + 1 : at + 2] == "+":
            raise _refuse(pattern, f"the possessive {here}+", f"write {here}")
        return here, at + 1
    if here == "{":
        counted = re.match(r"\{(\d*)(,(\d*))?\}", pattern[at:])
        if counted is None or counted[0] in ("{}", "{,}"):
            return "\\{", at + 1
        if max(int(each or 0) for each in (counted[1], counted[3])) > 200:
            raise _refuse(pattern, counted[0], "repeat at most 200 times")
        if pattern[at + counted.end() : at + counted.end() + 1] == "+":
            raise _refuse(pattern, f"the possessive {counted[0]}+", f"write {counted[0]}")
        return (counted[0] if counted[1] else "{0" + counted[0][1:]), at + counted.end()
    return ("\\" + here if here in "}]" else here), at + 1


def _escape(pattern: str, at: int) -> tuple[str, int]:
    letter = pattern[at + 1]
    if letter in _SHORTHAND:
        return f"[{_SHORTHAND[letter]}]", at + 2
    if letter.lower() in _SHORTHAND:
        return f"[^{_SHORTHAND[letter.lower()]}]", at + 2
    if letter in _CONTROL:
        return _CONTROL[letter], at + 2
    if letter.isalnum():
        raise _refuse(pattern, f"\\{letter}", "write the characters themselves")
    return quote(letter), at + 2


def _class(pattern: str, at: int) -> tuple[str, int]:
    end = at + 1
    written = "["
    if pattern[end] == "^":
        written, end = "[^", end + 1
    first = True
    while first or pattern[end] != "]":
        here, first = pattern[end], False
        if here == "[" and pattern[end + 1 : end + 2] in (":", ".", "="):
            raise _refuse(pattern, "a named class", "write its characters, for example [a-z]")
        if here == "\\":
            letter = pattern[end + 1]
            if letter in _SHORTHAND or letter in _CONTROL:
                written += _SHORTHAND.get(letter) or _CONTROL[letter]
            elif letter.isalnum():
                raise _refuse(pattern, f"\\{letter} inside […]", "write the characters themselves")
            else:
                written += "\\" + letter if letter in _CLASS_META else letter
            end += 2
        elif here == "-" and written not in ("[", "[^") and pattern[end + 1] != "]":
            written, end = written + "-", end + 1
        else:
            written, end = written + ("\\" + here if here in _CLASS_META else here), end + 1
    return written + "]", end + 1
