"""How each operation of the feature tree is written in ONNX. Knows nothing of packed inputs' making or of models.

One method an operation, ``_<operation>(call, arguments)``; a test holds the methods and the operations equal.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from everloop.package.calendar import SECOND, Clock
from everloop.package.logic import LogicOperators
from everloop.package.nodes import DOUBLE, INT64, Nodes
from everloop.package.tensors import NAN, Tensor, clean, constant, convert, missing, nowhere
from everloop.package.texts import TextOperators
from everloop.records import MISSING_INTEGER, InputColumn
from everloop.spec.operations import OPERATIONS, unify
from everloop.spec.tree import Call, Constant, Input, Node
from everloop.spec.zones import transitions, zone_of

TWO_TO_52 = float(2**52)
TWO_TO_63 = float(2**63)
Arguments = Sequence[Tensor]


def whole_numbers(nodes: Nodes) -> str:
    """The packed numbers with NaN for their infinities, all at once: x + (x - x)."""
    return nodes.add("Add", "numbers", nodes.add("Sub", "numbers", "numbers"))


class Renderer(LogicOperators, TextOperators):
    """Turns nodes of one tree into tensors of one graph; equal subtrees become one tensor."""

    def __init__(self, nodes: Nodes, inputs: Mapping[str, InputColumn]) -> None:
        self.nodes = nodes
        self._inputs = inputs
        self._zones = {name: column.time_zone for name, column in inputs.items()}
        self._clock = Clock(nodes)

    def of(self, node: Node) -> Tensor:
        match node:
            case Input(name):
                return self._input(self._inputs[name])
            case Constant(value, type):
                return constant(self.nodes, value, type) if type != "missing" else Tensor("missing", "")
            case Call(operation, arguments, options):
                tensors = [self.of(each) for each in arguments]
                result = OPERATIONS[operation].rule([each.type for each in tensors], dict(options))
                written: Tensor = getattr(self, f"_{operation}")(node, tensors, result)
                return written

    def _input(self, column: InputColumn) -> Tensor:
        place = self.nodes.constant(max(column.index, 0), INT64, (1,))
        match column.type:
            case "number":
                return Tensor("number", self.nodes.add("Gather", whole_numbers(self.nodes), place, axis=1))
            case "text":
                return Tensor("text", self.nodes.add("Gather", "texts", place, axis=1))
            case "bytes":
                return Tensor("bytes", column.name)
            case kind:
                value = self.nodes.add("Gather", "integers", place, axis=1)
                mask = self.nodes.add("Equal", value, self.nodes.constant(MISSING_INTEGER, INT64))
                if kind == "boolean":
                    value = self.nodes.add("Equal", value, self.nodes.constant(1, INT64))
                return Tensor(kind, value, mask)

    # Arithmetic

    def _operate(self, operator: str, arguments: Arguments, result: str) -> Tensor:
        left, right = (convert(self.nodes, each, result) for each in arguments)
        if result == "number":
            return Tensor("number", self._exactly(operator, left, right), finite=False)
        value = self.nodes.add(operator, left.name, right.name)
        return Tensor("integer", value, self.nodes.either(left.mask, right.mask))

    def _exactly(self, operator: str, left: Tensor, right: Tensor) -> str:
        """One operator on numbers, with constants where ONNX Runtime's optimiser does not see them.

        It drops a product or quotient with a constant within 1e-8 of 1, and a sum with a tiny one, as if they were 1 and
        0 (NoopElimination), and turns (1 / x) * y into y / x (DivMulFusion).
        """
        one = operator in ("Mul", "Div")
        sides = [left, right]
        for index, (side, other) in enumerate(((left, right), (right, left))):
            value = side.value
            if value is None or other.value is not None:
                continue
            near = abs(value - 1.0) < 1e-6 if one else abs(value) < 1e-30
            if near and (value != float(one) or (operator, index) == ("Div", 0)):
                every = self.nodes.add("Equal", other.name, other.name)
                sides[index] = replace(side, name=self.nodes.where(every, side.name, side.name))
        return self.nodes.add(operator, sides[0].name, sides[1].name)

    def _add(self, call: Call, arguments: Arguments, result: str) -> Tensor:
        return self._operate("Add", arguments, result)

    def _subtract(self, call: Call, arguments: Arguments, result: str) -> Tensor:
        if arguments[0].type == "instant":
            return self._dt_seconds_since(call, arguments, result)
        return self._operate("Sub", arguments, result)

    def _multiply(self, call: Call, arguments: Arguments, result: str) -> Tensor:
        return self._operate("Mul", arguments, result)

    def _numbers(self, arguments: Arguments) -> list[Tensor]:
        return [clean(self.nodes, convert(self.nodes, each, "number")) for each in arguments]

    def _divide(self, call: Call, arguments: Arguments, result: str) -> Tensor:
        return self._operate("Div", self._numbers(arguments), "number")

    def _power(self, call: Call, arguments: Arguments, result: str) -> Tensor:
        """1 ** missing and missing ** 0 are missing, though IEEE calls them 1."""
        base, exponent = self._numbers(arguments)
        value = self.nodes.add("Pow", base.name, exponent.name)
        absent = self.nodes.either(missing(self.nodes, base), missing(self.nodes, exponent))
        if absent is not None:
            value = self.nodes.where(absent, self.nodes.constant(NAN, DOUBLE), value)
        return Tensor("number", value, finite=False)

    def _floor_divide(self, call: Call, arguments: Arguments, result: str) -> Tensor:
        if result == "number":
            exact = self._divide(call, arguments, result)
            return Tensor("number", self.nodes.add("Floor", exact.name), finite=False)
        quotient, _, mask = self._integer_division(call, arguments)
        return Tensor("integer", quotient, mask)

    def _modulo(self, call: Call, arguments: Arguments, result: str) -> Tensor:
        if result == "number":
            left, right = self._numbers(arguments)
            times = Tensor("number", self.nodes.add("Floor", self._exactly("Div", left, right)))
            whole = Tensor("number", self._exactly("Mul", times, right))
            return Tensor("number", self._exactly("Sub", left, whole), finite=False)
        _, rest, mask = self._integer_division(call, arguments)
        return Tensor("integer", rest, mask)

    def _integer_division(self, call: Call, arguments: Arguments) -> tuple[str, str, str | None]:
        """Quotient rounded down and remainder. A divisor 0 or -1 would trap in the processor, so 1 stands in for it."""
        left, right = (convert(self.nodes, each, "integer") for each in arguments)
        mask = self.nodes.either(left.mask, right.mask)
        known = call.arguments[1]
        one = self.nodes.constant(1, INT64)
        by = right.name
        minus: str | None = None
        if not (isinstance(known, Constant) and known.value not in (0, -1)):
            zero = self.nodes.add("Equal", right.name, self.nodes.constant(0, INT64))
            minus = self.nodes.add("Equal", right.name, self.nodes.constant(-1, INT64))
            by = self.nodes.where(self.nodes.add("Or", zero, minus), one, right.name)
            mask = self.nodes.either(mask, zero)
        remainder = self.nodes.add("Mod", left.name, by)
        truncated = self.nodes.add("Div", left.name, by)
        inexact = self.nodes.invert(self.nodes.add("Equal", remainder, self.nodes.constant(0, INT64)))
        zero_constant = self.nodes.constant(0, INT64)
        opposite = self.nodes.add(
            "Xor", self.nodes.add("Less", left.name, zero_constant), self.nodes.add("Less", by, zero_constant)
        )
        down = self.nodes.cast(self.nodes.add("And", inexact, opposite), INT64)
        quotient = self.nodes.add("Sub", truncated, down)
        if minus is not None:
            quotient = self.nodes.where(minus, self.nodes.add("Neg", left.name), quotient)
        return quotient, remainder, mask

    def _unary(self, operator: str, arguments: Arguments, result: str) -> Tensor:
        only = convert(self.nodes, arguments[0], result)
        return Tensor(result, self.nodes.add(operator, only.name), only.mask, finite=only.finite)

    def _negate(self, call: Call, arguments: Arguments, result: str) -> Tensor:
        return self._unary("Neg", arguments, result)

    def _absolute(self, call: Call, arguments: Arguments, result: str) -> Tensor:
        return self._unary("Abs", arguments, result)

    def _function(self, operator: str, arguments: Arguments) -> Tensor:
        (only,) = self._numbers(arguments)
        return Tensor("number", self.nodes.add(operator, only.name), finite=False)

    def _log(self, call: Call, arguments: Arguments, result: str) -> Tensor:
        return self._function("Log", arguments)

    def _exp(self, call: Call, arguments: Arguments, result: str) -> Tensor:
        return self._function("Exp", arguments)

    def _sqrt(self, call: Call, arguments: Arguments, result: str) -> Tensor:
        return self._function("Sqrt", arguments)

    def _log1p(self, call: Call, arguments: Arguments, result: str) -> Tensor:
        """log(u) · x / (u - 1) with u = 1 + x: the errors of u cancel out (Higham, Accuracy and Stability, §1.14.1)."""
        (only,) = self._numbers(arguments)
        one = self.nodes.constant(1.0, DOUBLE)
        shifted = self.nodes.add("Add", only.name, one)
        ratio = self.nodes.add("Div", only.name, self.nodes.add("Sub", shifted, one))
        exact = self.nodes.add("Mul", self.nodes.add("Log", shifted), ratio)
        tiny = self.nodes.add("Equal", shifted, one)
        return Tensor("number", self.nodes.where(tiny, only.name, exact), finite=False)

    def _expm1(self, call: Call, arguments: Arguments, result: str) -> Tensor:
        """(u - 1) · x / log(u) with u = exp(x), by the same reasoning; far from 0 u - 1 is exact enough by itself."""
        (only,) = self._numbers(arguments)
        one = self.nodes.constant(1.0, DOUBLE)
        power = self.nodes.add("Exp", only.name)
        less = self.nodes.add("Sub", power, one)
        exact = self.nodes.add("Mul", less, self.nodes.add("Div", only.name, self.nodes.add("Log", power)))
        near = self.nodes.add("Less", self.nodes.add("Abs", only.name), one)
        tiny = self.nodes.add("Equal", power, one)
        return Tensor("number", self.nodes.where(tiny, only.name, self.nodes.where(near, exact, less)), finite=False)

    def _bounded(self, operator: str, arguments: Arguments, result: str) -> Tensor:
        """Max or Min; their NaN rules differ between versions, so a missing bound is written out."""
        if result == "integer":
            return self._operate(operator, arguments, result)
        left, right = self._numbers(arguments)
        comparison = "Greater" if operator == "Max" else "Less"
        value = self.nodes.where(self.nodes.add(comparison, right.name, left.name), right.name, left.name)
        absent = missing(self.nodes, right)
        if absent is not None:
            value = self.nodes.where(absent, self.nodes.constant(NAN, DOUBLE), value)
        return Tensor("number", value)

    def _at_least(self, call: Call, arguments: Arguments, result: str) -> Tensor:
        return self._bounded("Max", arguments, result)

    def _at_most(self, call: Call, arguments: Arguments, result: str) -> Tensor:
        return self._bounded("Min", arguments, result)

    def _round(self, call: Call, arguments: Arguments, result: str) -> Tensor:
        """Scaled up, rounded, scaled down; a number beyond 2**52 has no digits to lose."""
        digits = call.option("digits")
        if result == "integer" and digits >= 0:
            return convert(self.nodes, arguments[0], "integer")
        (only,) = self._numbers(arguments)
        if digits == 0:
            value = self.nodes.add("Round", only.name)
        else:
            scale = self.nodes.constant(10.0 ** abs(digits), DOUBLE)
            up, down = ("Mul", "Div") if digits > 0 else ("Div", "Mul")
            scaled = self.nodes.add(up, only.name, scale)
            value = self.nodes.add(down, self.nodes.add("Round", scaled), scale)
            if digits > 0:
                small = self.nodes.add("Less", self.nodes.add("Abs", scaled), self.nodes.constant(TWO_TO_52, DOUBLE))
                value = self.nodes.where(small, value, only.name)
        return Tensor("number", value, finite=digits >= 0)

    def _floor(self, call: Call, arguments: Arguments, result: str) -> Tensor:
        return self._whole("Floor", arguments, result)

    def _ceil(self, call: Call, arguments: Arguments, result: str) -> Tensor:
        return self._whole("Ceil", arguments, result)

    def _whole(self, operator: str, arguments: Arguments, result: str) -> Tensor:
        if result == "integer":
            return convert(self.nodes, arguments[0], "integer")
        return self._unary(operator, arguments, result)

    # Choice and missing values

    def _choose(self, call: Call, arguments: Arguments, result: str) -> Tensor:
        pairs = len(arguments) // 2
        last = arguments[-1] if len(arguments) % 2 else Tensor("missing", "")
        chosen = self._branch(last, result)
        for index in reversed(range(pairs)):
            test, value = arguments[2 * index], self._branch(arguments[2 * index + 1], result)
            chosen = self._pick(test.name, value, chosen)
        return chosen

    def _branch(self, tensor: Tensor, type: str) -> Tensor:
        return constant(self.nodes, None, type) if tensor.type == "missing" else convert(self.nodes, tensor, type)

    def _pick(self, test: str, then: Tensor, otherwise: Tensor) -> Tensor:
        if then.type == "boolean":
            value = self.nodes.pick(test, then.name, otherwise.name)
        else:
            value = self.nodes.where(test, then.name, otherwise.name)
        mask: str | None = None
        if then.mask is not None:
            mask = self.nodes.add("And", test, then.mask)
        if otherwise.mask is not None:
            mask = self.nodes.either(mask, self.nodes.add("And", self.nodes.invert(test), otherwise.mask))
        return Tensor(then.type, value, mask, finite=then.finite and otherwise.finite)

    def _is_missing(self, call: Call, arguments: Arguments, result: str) -> Tensor:
        mask = missing(self.nodes, arguments[0])
        return Tensor("boolean", mask if mask is not None else nowhere(self.nodes, arguments[0]))

    def _fill_missing(self, call: Call, arguments: Arguments, result: str) -> Tensor:
        wanted = unify([each.type for each in arguments])
        value, instead = (clean(self.nodes, convert(self.nodes, each, wanted)) for each in arguments)
        mask = missing(self.nodes, value)
        return value if mask is None else self._pick(mask, instead, value)

    # Casts and tables

    def _to_number(self, call: Call, arguments: Arguments, result: str) -> Tensor:
        if arguments[0].type == "text":
            return self._parsed(arguments[0], "number")
        return convert(self.nodes, arguments[0], "number")

    def _to_integer(self, call: Call, arguments: Arguments, result: str) -> Tensor:
        only = arguments[0]
        if only.type == "text":
            return self._parsed(only, "integer")
        if only.type != "number":
            return convert(self.nodes, only, "integer")
        fits = self.nodes.add("Less", self.nodes.add("Abs", only.name), self.nodes.constant(TWO_TO_63, DOUBLE))
        safe = self.nodes.where(fits, only.name, self.nodes.constant(0.0, DOUBLE))
        return Tensor("integer", self.nodes.cast(safe, INT64), self.nodes.invert(fits))

    def _to_boolean(self, call: Call, arguments: Arguments, result: str) -> Tensor:
        only = arguments[0]
        if only.type == "boolean":
            return only
        zero = constant(self.nodes, 0.0 if only.type == "number" else 0, only.type)
        return self._compare("Equal", (only, zero), negated=True)

    def _is_in(self, call: Call, arguments: Arguments, result: str) -> Tensor:
        only, values = arguments[0], call.option("values")
        if only.type == "number":
            only = clean(self.nodes, only)
            row = self.nodes.constant([float(each) for each in values], DOUBLE, (1, len(values)))
            hits = self.nodes.cast(self.nodes.add("Equal", only.name, row), INT64)
            most = self.nodes.add("ReduceMax", hits, self.nodes.constant(1, INT64, (1,)), keepdims=1)
            found = self.nodes.add("Equal", most, self.nodes.constant(1, INT64))
            return Tensor("boolean", found, missing(self.nodes, only))
        keys: dict[str, Any] = {"keys_strings" if only.type == "text" else "keys_int64s": list(values)}
        code = self.nodes.add(
            "LabelEncoder", only.name, domain="ai.onnx.ml", **keys, values_int64s=[1] * len(values), default_int64=0
        )
        absent = missing(self.nodes, only)
        found = self.nodes.add("Equal", code, self.nodes.constant(1, INT64))
        return Tensor("boolean", self.nodes.unless(found, absent), absent)

    # Images

    def _image(self, call: Call, arguments: Arguments, result: str) -> Tensor:
        """Decoded before the graph; normalised where it is used (`everloop.package.images`)."""
        return Tensor("image", arguments[0].name)

    # Instants

    def _dt_seconds_since(self, call: Call, arguments: Arguments, result: str) -> Tensor:
        left, right = arguments
        apart = self.nodes.cast(self.nodes.add("Sub", left.name, right.name), DOUBLE)
        seconds = self.nodes.add("Div", apart, self.nodes.constant(float(SECOND), DOUBLE))
        absent = self.nodes.either(left.mask, right.mask)
        if absent is not None:
            seconds = self.nodes.where(absent, self.nodes.constant(NAN, DOUBLE), seconds)
        return Tensor("number", seconds)

    def _part(self, call: Call, arguments: Arguments, result: str) -> Tensor:
        only = arguments[0]
        local = self._clock.local(only.name, transitions(zone_of(call, self._zones)))
        part: str = getattr(self._clock, call.operation.removeprefix("dt_"))(local)
        return Tensor("integer", part, only.mask)

    _dt_year = _dt_month = _dt_day = _dt_day_of_year = _dt_weekday = _dt_hour = _dt_minute = _dt_second = _part
