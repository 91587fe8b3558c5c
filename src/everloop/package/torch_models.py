"""A trained network as graph nodes: float32 inside, logits made probabilities in float64. Trains nothing.

torch.onnx writes the network; what it wrote is believed only after parity. The classic exporter is asked: it takes
seconds where the newer one takes minutes, and runtimes know its transformers (LOG.md). Loaded only for networks.
"""

import io
import warnings
from collections.abc import Mapping
from typing import Any

import onnx
import torch
from onnx import TensorProto, compose

from everloop.errors import ConversionRefused
from everloop.package.graph import OPSET, Graph

ROWS = "rows"


class _Positional(torch.nn.Module):  # type: ignore[misc]
    """The exporter passes tensors by place; networks with several take them by name. Answers [rows, outputs]."""

    def __init__(self, module: Any, names: tuple[str, ...]) -> None:
        super().__init__()
        self.module, self.names = module, names

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        answer = (
            self.module(*tensors) if len(tensors) == 1 else self.module(**dict(zip(self.names, tensors, strict=True)))
        )
        answer = answer.logits if hasattr(answer, "logits") else answer
        answer = answer[0] if isinstance(answer, tuple | list) else answer
        return answer.reshape(-1, 1) if answer.dim() == 1 else answer


def prediction(graph: Graph, inputs: Mapping[str, str], fitted: Any) -> str:
    """float64 [rows, classes], or [rows, 1] on the scale that was fitted.

    ``inputs``: the graph's tensor by the name of each that the network takes; ``columns`` float64 is made float32 here.
    """
    model = fitted.model
    names = tuple(model.shapes)
    narrow = {
        name: graph.node("Cast", [inputs[name]], to=TensorProto.FLOAT) if name == "columns" else inputs[name]
        for name in names
    }
    logits = graph.node("Cast", [_merged(graph, narrow, exported(model))], to=TensorProto.DOUBLE)
    if fitted.task == "regression":
        wide = graph.node("Mul", [logits, graph.scalar(model.spread)])
        return graph.node("Add", [wide, graph.scalar(model.centre)])
    return graph.logistic(logits) if model.width == 1 else graph.softmax(logits, fitted.classes)


def exported(model: Any) -> onnx.ModelProto:
    """The network alone as torch.onnx writes it: inputs by name, one output, any number of rows."""
    names = tuple(model.shapes)
    example = tuple(_example(name, model.shapes[name], model) for name in names)
    module = _Positional(model.module, names).eval()
    written = io.BytesIO()
    quick = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one kernel for a whole layer of a transformer, which no graph has
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of the classic exporter's age, and of shapes that are constants to us
            torch.onnx.export(
                module, example, written, dynamo=False, opset_version=OPSET, input_names=list(names),
                output_names=["logits"], dynamic_axes={**{name: {0: ROWS} for name in names}, "logits": {0: ROWS}},
            )  # fmt: skip
        made = onnx.load_from_string(written.getvalue())
    except Exception as error:  # the exporter raises many kinds of its own
        raise ConversionRefused(
            f"the network {type(model.module).__name__} cannot become a graph ({type(error).__name__}: "
            f"{(str(error).splitlines() or [''])[0]}); leave out what depends on values of the input, such as if and for."
        ) from error
    finally:
        torch.backends.mha.set_fastpath_enabled(quick)
    return made


def _example(name: str, shape: tuple[int, ...], model: Any) -> torch.Tensor:
    """Two rows; tokens with something in every place, so that no mask is empty."""
    if model.dtypes[name] == "int64":
        return torch.ones((2, *shape), dtype=torch.int64)
    return torch.zeros((2, *shape), dtype=torch.float32)


def _merged(graph: Graph, inputs: Mapping[str, str], model: onnx.ModelProto) -> str:
    prefix = graph.name("network") + "/"
    renamed: onnx.ModelProto = compose.add_prefix(model, prefix)
    for each in renamed.graph.input:
        name = each.name.removeprefix(prefix)
        graph.node("Identity", [inputs[name]], output=each.name)
    graph.initializers.extend(renamed.graph.initializer)
    graph.nodes.extend(renamed.graph.node)
    return str(renamed.graph.output[0].name)
