"""Bodies of the Open Inference Protocol V2 over HTTP: JSON, and bytes behind it. Knows nothing of models or sockets.

With the binary tensor data extension a body is JSON of a length that the header Inference-Header-Content-Length gives,
then the bytes of each input that has a ``binary_data_size``, in their order; answers likewise.
"""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import msgspec

from everloop.errors import RequestError
from everloop.serve import v2
from everloop.serve.live import Answer, Live
from everloop.serve.v2_values import ALL_DATATYPES, FLOATING, WHOLE, Given

HEADER = b"inference-header-content-length"
ABSENT = msgspec.Raw(b"")
KINDS: dict[str, tuple[Any, str]] = {
    **dict.fromkeys(WHOLE, (list[int | None], "a whole number or null")),
    **dict.fromkeys(FLOATING, (list[float | None], "a number or null")),
    "BOOL": (list[bool | None], "true, false or null"),
    "BYTES": (list[str | None], "a text or null"),
}
_readers: dict[str, Callable[[msgspec.Raw], list[Any]]] = {
    name: msgspec.json.Decoder(kind).decode for name, (kind, _) in KINDS.items()
}


class SentTensor(msgspec.Struct, gc=False):
    name: str
    shape: list[int]
    datatype: str
    data: msgspec.Raw = ABSENT
    parameters: dict[str, Any] | None = None


class SentOutput(msgspec.Struct):
    name: str
    parameters: dict[str, Any] | None = None


class Sent(msgspec.Struct):
    inputs: list[SentTensor]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[SentOutput] | None = None


_decode: Callable[[bytes], Sent] = msgspec.json.Decoder(Sent).decode


def decode(body: bytes, header: bytes | None) -> v2.Request:
    """The request in a body. ``header``: the value of Inference-Header-Content-Length, None without one.

    Raises RequestError naming the tensor and what is wrong with it.
    """
    rest: memoryview | None = None
    if header is not None:
        length = int(header) if header.isdigit() and len(header) < 20 else -1
        if not 0 <= length <= len(body):
            raise RequestError(
                f"Inference-Header-Content-Length is {header[:40].decode(errors='replace')!r}; the body has {len(body)} "
                "bytes. Send the length of the JSON with which it begins."
            )
        body, rest = body[:length], memoryview(body)[length:]
    try:
        sent = _decode(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"This is not an inference request of the Open Inference Protocol V2: {error}.") from None
    inputs = []
    for tensor in sent.inputs:
        if tensor.parameters is None:  # by far the most frequent
            try:
                values = _readers[tensor.datatype](tensor.data)
            except (ValueError, RecursionError, KeyError):
                pass  # nested or wrong
            else:
                inputs.append(Given(tensor.name, tensor.datatype, tensor.shape, values))
                continue
        given, rest = _given(tensor, rest)
        inputs.append(given)
    if rest:
        raise RequestError(f"The body goes on for {len(rest)} bytes after its last input.")
    parameters = sent.parameters or {}
    request = v2.Request(inputs, sent.id, parameters)
    request.binary = _flag(parameters, "binary_data_output", "The request") or False
    request.outputs = [_wanted(each) for each in sent.outputs or []]
    return request


def _given(tensor: SentTensor, rest: memoryview | None) -> tuple[Given, memoryview | None]:
    name, parameters = tensor.name, tensor.parameters or {}
    shown = f"Input {name[:80]!r}"
    size = parameters.get("binary_data_size")
    if "shared_memory_region" in parameters:
        raise RequestError(f"{shown} lies in shared memory, which is not read here. Send its data.")
    if tensor.datatype not in KINDS:
        raise RequestError(f"{shown} has the datatype {tensor.datatype[:20]!r}; known are {', '.join(ALL_DATATYPES)}.")
    if size is None:
        if tensor.data is ABSENT:
            raise RequestError(f"{shown} has no data; send them, or binary_data_size and the bytes after the JSON.")
        return Given(name, tensor.datatype, tensor.shape, _values(tensor)), rest
    if tensor.data is not ABSENT:
        raise RequestError(f"{shown} has both data and a binary_data_size; send one of them.")
    if type(size) is not int or size < 0:
        raise RequestError(f"{shown} has a binary_data_size that is no whole number of bytes.")
    if rest is None:
        raise RequestError(f"{shown} is binary; say with Inference-Header-Content-Length where the JSON ends.")
    if size > len(rest):
        raise RequestError(f"{shown} has a binary_data_size beyond the {len(rest)} bytes that are there for it.")
    return Given(name, tensor.datatype, tensor.shape, rest[:size], raw=True), rest[size:]


def _values(tensor: SentTensor) -> list[Any]:
    try:
        return _readers[tensor.datatype](tensor.data)
    except (ValueError, RecursionError):
        pass
    # Nested, or wrong: looked at again, slowly.
    shown = f"Input {tensor.name[:80]!r}"
    try:
        found = msgspec.json.decode(tensor.data)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{shown} has data that cannot be read: {error}.") from None
    if not isinstance(found, list):
        raise RequestError(f"{shown} has data that are no array.")
    values = _flattened(found, tensor.shape, shown)
    kind, words = KINDS[tensor.datatype]
    try:
        converted: list[Any] = msgspec.convert(values, kind)
        return converted
    except (ValueError, RecursionError):
        for place, value in enumerate(values):
            try:
                msgspec.convert([value], kind)
            except (ValueError, RecursionError):
                text = msgspec.json.encode(value).decode()
                text = text if len(text) <= 80 else text[:77] + "…"
                raise RequestError(
                    f"{shown} is {text} at place {place}; expected {words}, for it is {tensor.datatype}."
                ) from None
        raise


def _flattened(found: list[Any], shape: Sequence[int], shown: str) -> list[Any]:
    """Nested data as one list, row by row."""
    for size in shape[1:]:
        lists = sum(1 for each in found if isinstance(each, list))
        if not lists:
            break
        if lists < len(found):
            raise RequestError(f"{shown} mixes arrays and values in its data.")
        if any(len(each) != size for each in found):
            raise RequestError(f"{shown} has data that are nested otherwise than its shape says.")
        found = list(chain.from_iterable(found))
    return found


def _wanted(sent: SentOutput) -> v2.Wanted:
    parameters = sent.parameters or {}
    shown = f"Output {sent.name[:80]!r}"
    if parameters.get("classification"):
        raise RequestError(
            f"{shown} asks for a classification; ask for the output probability, which holds all classes."
        )
    if "shared_memory_region" in parameters:
        raise RequestError(f"{shown} asks for shared memory, which is not written here.")
    return v2.Wanted(sent.name, _flag(parameters, "binary_data", shown))


def _flag(parameters: dict[str, Any], name: str, shown: str) -> bool | None:
    value = parameters.get(name)
    if value is not None and not isinstance(value, bool):
        raise RequestError(f"{shown} has a {name} that is neither true nor false.")
    return value


def encode(name: str, live: Live, request: v2.Request, answers: Sequence[Answer]) -> tuple[bytes, int | None]:
    """The body of the answer, and the length of its JSON when bytes follow."""
    binary = {each.name: each.binary for each in request.outputs if each.binary is not None}
    parts: list[bytes] = []
    outputs: list[dict[str, Any]] = []
    for output in v2.outputs(live, answers, request.outputs):
        told: dict[str, Any] = {"name": output.name, "datatype": output.datatype, "shape": output.shape}
        if binary.get(output.name, request.binary):
            parts.append(output.raw)
            told["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            told["data"] = output.values
        outputs.append(told)
    response = {"model_name": name, "model_version": v2.version_of(live, answers), "outputs": outputs}
    if request.id is not None:
        response["id"] = request.id
    head = msgspec.json.encode(response)
    return (b"".join((head, *parts)), len(head)) if parts else (head, None)
