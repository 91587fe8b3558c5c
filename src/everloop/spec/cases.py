"""Upper and lower case letter by letter, as tables. Knows nothing of renderers.

Unicode's full mappings change lengths and look at neighbours (ß → SS, final σ); the served graph maps one letter to
one letter, so training does the same.
"""

from functools import cache

_LAST_CASED = 0x1E944


@cache
def lower_table() -> dict[str, str]:
    """Letters whose lower case differs, and that one letter."""
    table = {each: each.lower() for each in _letters() if len(each.lower()) == 1 and each.lower() != each}
    return table | {"İ": "i"}


@cache
def upper_table() -> dict[str, str]:
    """Letters whose upper case differs; where it would be two letters, the title case if that is one."""
    table: dict[str, str] = {}
    for each in _letters():
        found = next((one for one in (each.upper(), each.title()) if len(one) == 1), each)
        if found != each:
            table[each] = found
    return table


def _letters() -> list[str]:
    return [chr(code) for code in range(1, _LAST_CASED) if not 0xD800 <= code < 0xE000]
