"""How text operations are written in ONNX. Knows nothing of numbers or dates.

`MISSING_TEXT` passes through every operator here as it is, so text needs no mask.
"""

from collections.abc import Sequence

from everloop.package.nodes import BOOL, DOUBLE, EXTENSIONS, INT64, STRING, Nodes
from everloop.package.tensors import NAN, Tensor, constant, missing
from everloop.records import MISSING_TEXT
from everloop.spec.operations import INTEGER_TEXT, NUMBER_TEXT
from everloop.spec.patterns import quote
from everloop.spec.tree import Call

LOCALE = "C.UTF-8"
"""Upper and lower case need the Unicode tables of a locale; this one needs no language pack. A session on a machine
without it fails when it is made, never later."""


class TextOperators:
    """The text half of `everloop.package.operators.Renderer`."""

    nodes: Nodes

    def _matched(self, only: Tensor, pattern: str) -> Tensor:
        absent = missing(self.nodes, only)
        flags = self.nodes.add("RegexFullMatch", only.name, pattern=pattern)
        return Tensor("boolean", self.nodes.unless(flags, absent), absent)

    def _str_matches(self, call: Call, arguments: Sequence[Tensor], result: str) -> Tensor:
        return self._matched(arguments[0], call.option("pattern"))

    def _str_contains(self, call: Call, arguments: Sequence[Tensor], result: str) -> Tensor:
        return self._matched(arguments[0], f"(?s:.*){quote(call.option('text'))}(?s:.*)")

    def _str_starts_with(self, call: Call, arguments: Sequence[Tensor], result: str) -> Tensor:
        return self._matched(arguments[0], f"{quote(call.option('text'))}(?s:.*)")

    def _str_ends_with(self, call: Call, arguments: Sequence[Tensor], result: str) -> Tensor:
        return self._matched(arguments[0], f"(?s:.*){quote(call.option('text'))}")

    def _cased(self, only: Tensor, action: str) -> Tensor:
        """StringNormalizer takes one axis, so [rows, 1] is made [rows] and back."""
        flat = self.nodes.add("Reshape", only.name, self.nodes.constant(-1, INT64, (1,)))
        cased = self.nodes.add("StringNormalizer", flat, case_change_action=action, is_case_sensitive=1, locale=LOCALE)
        return Tensor("text", self.nodes.add("Reshape", cased, self.nodes.constant([-1, 1], INT64, (2,))))

    def _str_lower(self, call: Call, arguments: Sequence[Tensor], result: str) -> Tensor:
        return self._cased(arguments[0], "LOWER")

    def _str_upper(self, call: Call, arguments: Sequence[Tensor], result: str) -> Tensor:
        return self._cased(arguments[0], "UPPER")

    def _str_length(self, call: Call, arguments: Sequence[Tensor], result: str) -> Tensor:
        length = self.nodes.add("StringLength", arguments[0].name, domain=EXTENSIONS)
        return Tensor("integer", length, missing(self.nodes, arguments[0]))

    def _terms(self, call: Call, arguments: Sequence[Tensor], result: str) -> Tensor:
        """What is learned from whole texts stands in the encoding (`everloop.package.terms`): here it is the text."""
        return Tensor("terms", arguments[0].name)

    def _tokens(self, call: Call, arguments: Sequence[Tensor], result: str) -> Tensor:
        """As terms: `everloop.package.tokens`."""
        return Tensor("tokens", arguments[0].name)

    def _map(self, call: Call, arguments: Sequence[Tensor], result: str) -> Tensor:
        """Text to a place in a table, then the table: the place after the last is missing, the one after that unknown."""
        table, default = call.option("table"), call.option("default")
        keys = [key for key, _ in table]
        if result == "text":
            unknown = MISSING_TEXT if default is None else default
            return Tensor("text", self.nodes.add(
                "LabelEncoder", arguments[0].name, domain="ai.onnx.ml", keys_strings=[*keys, MISSING_TEXT],
                values_strings=[*(value for _, value in table), MISSING_TEXT], default_string=unknown,
            ))  # fmt: skip
        place = self.nodes.add(
            "LabelEncoder", arguments[0].name, domain="ai.onnx.ml", keys_strings=[*keys, MISSING_TEXT],
            values_int64s=list(range(len(keys) + 1)), default_int64=len(keys) + 1,
        )  # fmt: skip
        values = [value for _, value in table]
        if result == "number":
            whole = [*values, NAN, NAN if default is None else float(default)]
            return Tensor("number", self._looked_up(whole, DOUBLE, place))
        nothing = False if result == "boolean" else 0
        whole = [*values, nothing, nothing if default is None else default]
        absent = [*(False for _ in values), True, default is None]
        kind = BOOL if result == "boolean" else INT64
        return Tensor(result, self._looked_up(whole, kind, place), self._looked_up(absent, BOOL, place))

    def _looked_up(self, values: Sequence[object], kind: int, place: str) -> str:
        return self.nodes.add("Gather", self.nodes.constant(values, kind, (len(values),)), place)

    def _to_text(self, call: Call, arguments: Sequence[Tensor], result: str) -> Tensor:
        only = arguments[0]
        if only.type == "text":
            return only
        if only.type == "boolean":
            yes, no = (constant(self.nodes, each, "text").name for each in ("true", "false"))
            value = self.nodes.where(only.name, yes, no)
        else:
            value = self.nodes.cast(only.name, STRING)
        if only.mask is not None:
            value = self.nodes.where(only.mask, self.nodes.constant(MISSING_TEXT, STRING), value)
        return Tensor("text", value)

    def _parsed(self, only: Tensor, type: str) -> Tensor:
        """Cast fails on text that is no number, so only what reads like one comes to it."""
        pattern, kind = (NUMBER_TEXT, DOUBLE) if type == "number" else (INTEGER_TEXT, INT64)
        reads = self.nodes.add("RegexFullMatch", only.name, pattern=pattern)
        value = self.nodes.cast(self.nodes.where(reads, only.name, self.nodes.constant("0", STRING)), kind)
        if type == "number":
            return Tensor("number", self.nodes.where(reads, value, self.nodes.constant(NAN, DOUBLE)))
        return Tensor("integer", value, self.nodes.invert(reads))
