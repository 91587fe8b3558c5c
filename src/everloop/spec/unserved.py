"""What Python offers on any value and a column cannot do in a served graph, each with a remedy.

Knows nothing of the operations that a column has.
"""

from typing import Any, NoReturn

from everloop.errors import SpecError
from everloop.spec.refusals import public_names, refuse_name


class Unserved:
    """Base of `everloop.spec.expression.Column`: every method here raises SpecError."""

    __slots__ = ()

    def _no(self, what: str, instead: str) -> NoReturn:
        raise SpecError(f"{what} on {self!r} cannot be served; {instead}")

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):
            raise AttributeError(name)
        refuse_name(repr(self), name, public_names(type(self)))

    def __bool__(self) -> NoReturn:
        raise SpecError(
            f"{self!r} has no value while features are declared, so if, and, or, not and chained comparisons cannot "
            "decide on it; use el.when(test).then(a).otherwise(b), &, | and ~ (with parentheses)"
        )

    def __iter__(self) -> NoReturn:
        self._no("iterating", "a feature sees one row, never the others")

    def __len__(self) -> NoReturn:
        self._no("len()", "a feature sees one row; the length of a text is .str.length()")

    def __contains__(self, item: object) -> NoReturn:
        self._no("in", "use .is_in([…]) or .str.contains(text)")

    def __getitem__(self, key: object) -> NoReturn:
        self._no("[…]", "a feature sees one row, never the others")

    def __float__(self) -> NoReturn:
        self._no("float() or a function of math", "use .to_number(), .log(), .exp(), .sqrt(), …")

    def __int__(self) -> NoReturn:
        self._no("int()", "use .to_integer()")

    def __index__(self) -> NoReturn:
        self._no("use as an index", "use .map({…}) on text")

    def __trunc__(self) -> NoReturn:
        self._no("trunc()", "use .to_integer()")

    def __hash__(self) -> int:
        self._no("use as a dict key or in a set", "name features with text")

    def __call__(self, *arguments: Any, **named: Any) -> NoReturn:
        self._no("calling", "a column is not a function; methods are listed in docs/features.md")

    def __divmod__(self, other: Any) -> NoReturn:
        self._no("divmod()", "use // and %")

    def __matmul__(self, other: Any) -> NoReturn:
        self._no("@", "write the sum of products")

    def __format__(self, form: Any) -> NoReturn:
        self._no("formatting as text", "use .to_text() for integers")

    def __array__(self, *arguments: Any, **named: Any) -> NoReturn:
        self._no("turning into an array", "numpy and pandas cannot run in the served graph; use methods such as .log()")

    def __array_ufunc__(self, function: Any, method: object, *inputs: Any, **named: Any) -> Any:
        name = getattr(function, "__name__", "?")
        arithmetic = {
            "add": "__radd__", "subtract": "__rsub__", "multiply": "__rmul__", "divide": "__rtruediv__",
            "floor_divide": "__rfloordiv__", "remainder": "__rmod__", "power": "__rpow__", "less": "__gt__",
            "less_equal": "__ge__", "greater": "__lt__", "greater_equal": "__le__", "equal": "__eq__",
            "not_equal": "__ne__",
        }  # fmt: skip
        if name in arithmetic and len(inputs) == 2 and inputs[1] is self:  # a numpy scalar on the left
            return getattr(self, arithmetic[name])(inputs[0])
        own = name if name in public_names(type(self)) else {"absolute": "abs", "rint": "round"}.get(name)
        self._no(f"numpy.{name}", f"use .{own}()" if own else "use the methods of a column; see docs/features.md")

    def __array_function__(self, function: Any, *inputs: Any, **named: Any) -> NoReturn:
        name = getattr(function, "__name__", "?")
        instead = {"where": "use el.when(test).then(a).otherwise(b)", "clip": "use .clip(low, high)"}
        self._no(f"numpy.{name}", instead.get(name, "use the methods of a column; see docs/features.md"))
