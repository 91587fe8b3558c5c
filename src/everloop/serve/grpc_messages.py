"""The messages of the Open Inference Protocol V2 over gRPC, made when this file is loaded. Knows nothing of calls.

Written from the protocol's documented messages; a field's number is its place in the list. They live in a pool of their
own, so that a client library in the same process may bring the same names.
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "inference"
SERVICE = "inference.GRPCInferenceService"
HEALTH = "grpc.health.v1.Health"
"""What probes ask: Kubernetes knows no other."""
PARAMETERS = "map parameters"
MESSAGES: dict[str, list[str]] = {
    "ServerLiveRequest": [],
    "ServerLiveResponse": ["bool live"],
    "ServerReadyRequest": [],
    "ServerReadyResponse": ["bool ready"],
    "ModelReadyRequest": ["string name", "string version"],
    "ModelReadyResponse": ["bool ready"],
    "ServerMetadataRequest": [],
    "ServerMetadataResponse": ["string name", "string version", "repeated string extensions"],
    "ModelMetadataRequest": ["string name", "string version"],
    "ModelMetadataResponse": [
        "string name", "repeated string versions", "string platform",
        "repeated ModelMetadataResponse.TensorMetadata inputs", "repeated ModelMetadataResponse.TensorMetadata outputs",
    ],
    "ModelMetadataResponse.TensorMetadata": ["string name", "string datatype", "repeated int64 shape"],
    "InferParameter": [
        "oneof bool bool_param", "oneof int64 int64_param", "oneof string string_param", "oneof double double_param",
        "oneof uint64 uint64_param",
    ],
    "InferTensorContents": [
        "repeated bool bool_contents", "repeated int32 int_contents", "repeated int64 int64_contents",
        "repeated uint32 uint_contents", "repeated uint64 uint64_contents", "repeated float fp32_contents",
        "repeated double fp64_contents", "repeated bytes bytes_contents",
    ],
    "ModelInferRequest": [
        "string model_name", "string model_version", "string id", PARAMETERS,
        "repeated ModelInferRequest.InferInputTensor inputs",
        "repeated ModelInferRequest.InferRequestedOutputTensor outputs", "repeated bytes raw_input_contents",
    ],
    "ModelInferRequest.InferInputTensor": [
        "string name", "string datatype", "repeated int64 shape", PARAMETERS, "InferTensorContents contents",
    ],
    "ModelInferRequest.InferRequestedOutputTensor": ["string name", PARAMETERS],
    "ModelInferResponse": [
        "string model_name", "string model_version", "string id", PARAMETERS,
        "repeated ModelInferResponse.InferOutputTensor outputs", "repeated bytes raw_output_contents",
    ],
    "ModelInferResponse.InferOutputTensor": [
        "string name", "string datatype", "repeated int64 shape", PARAMETERS, "InferTensorContents contents",
    ],
    "RepositoryIndexRequest": ["string repository_name", "bool ready"],
    "RepositoryIndexResponse": ["repeated RepositoryIndexResponse.ModelIndex models"],
    "RepositoryIndexResponse.ModelIndex": ["string name", "string version", "string state", "string reason"],
    "RepositoryModelLoadRequest": ["string repository_name", "string model_name", PARAMETERS],
    "RepositoryModelUnloadRequest": ["string repository_name", "string model_name", PARAMETERS],
    "HealthCheckRequest": ["string service"],
    "HealthCheckResponse": ["int32 status"],
}  # fmt: skip
SERVING, NOT_SERVING = 1, 2
CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip
"""Datatype → the field of InferTensorContents that holds its values; the others come as bytes only."""


def _file() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="everloop/inference.proto", package=PACKAGE, syntax="proto3")
    made: dict[str, Any] = {}
    for name, fields in MESSAGES.items():
        outer, _, inner = name.rpartition(".")
        message = made[name] = made[outer].nested_type.add() if outer else file.message_type.add()
        message.name = inner
        for number, written in enumerate(fields, 1):
            _add(message, f".{PACKAGE}.{name}", number, written.split())
    return file


def _add(message: Any, full_name: str, number: int, words: list[str]) -> None:
    kinds = descriptor_pb2.FieldDescriptorProto
    *rest, name = words
    field = message.field.add(name=name, number=number, label=kinds.LABEL_OPTIONAL)
    if rest == ["map"]:  # to protobuf a map is a list of pairs
        entry = message.nested_type.add(name="ParametersEntry")
        entry.options.map_entry = True
        _add(entry, "", 1, ["string", "key"])
        _add(entry, "", 2, ["InferParameter", "value"])
        field.label, field.type, field.type_name = (
            kinds.LABEL_REPEATED, kinds.TYPE_MESSAGE, f"{full_name}.ParametersEntry",
        )  # fmt: skip
        return
    if rest[0] == "repeated":
        field.label = kinds.LABEL_REPEATED
    if rest[0] == "oneof":
        if not message.oneof_decl:
            message.oneof_decl.add(name="parameter_choice")
        field.oneof_index = 0
    if rest[-1] in MESSAGES:
        field.type, field.type_name = kinds.TYPE_MESSAGE, f".{PACKAGE}.{rest[-1]}"
    else:
        field.type = kinds.Type.Value(f"TYPE_{rest[-1].upper()}")


_pool = descriptor_pool.DescriptorPool()
_pool.AddSerializedFile(_file().SerializeToString())


def message(name: str) -> Any:
    """The class of a message."""
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))
