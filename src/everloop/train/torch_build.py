"""Builds the declared network: finds its factory, tells it what it asks for, freezes what is to stay. Trains nothing."""

import fnmatch
import importlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from everloop.errors import TrainError
from everloop.measure.tensors import Tensors
from everloop.spec.function import Function
from everloop.spec.torch import FACTS, Imported, Pretrained, Torch
from everloop.train import function
from everloop.train.torch_forward import forward, said


def build(
    declared: Torch, inputs: Tensors, outputs: int, *, seed: int, source: Path | None = None,
    folder: Path | None = None, begin: Mapping[str, Any] | None = None,
) -> torch.nn.Module:  # fmt: skip
    """The module with the weights that it begins with, on the CPU.

    ``outputs``: how many numbers it must answer a row. ``source``: the stored declaration; ``folder``: what paths of
    weights are relative to. ``begin``: weights to begin with; those that do not fit are left out. Raises `TrainError`
    in the user's words.
    """
    torch.manual_seed(seed)
    model = declared.model
    if isinstance(model, Pretrained):
        from everloop.train.torch_pretrained import load

        module = load(model, declared.parameters, inputs, outputs, folder=folder)
    else:
        module = _called(_factory(model, source), declared.parameters, facts(inputs, outputs), model.name)
    _materialise(module, inputs)
    if begin is not None:
        own = module.state_dict()
        module.load_state_dict({n: v for n, v in begin.items() if n in own and own[n].shape == v.shape}, strict=False)
    if declared.adapt is not None:
        from everloop.train.torch_lora import adapted

        module = adapted(module, declared.adapt)
    return module


def facts(inputs: Tensors, outputs: int) -> dict[str, Any]:
    """What a factory may ask for by these names."""
    width = inputs.shapes.get("columns", (0,))[0]
    values = (width, outputs, outputs, outputs, inputs.shapes)
    return dict(zip(FACTS, values, strict=True))


def freeze(module: torch.nn.Module, patterns: Mapping[str, int | None], epoch: int) -> bool:
    """Freeze what the patterns say for this epoch (from 0); whether anything changed. Raises for one that fits nothing."""
    changed = False
    for name, parameter in module.named_parameters():
        held = any(
            fnmatch.fnmatchcase(name, pattern) and (until is None or epoch < until)
            for pattern, until in patterns.items()
        )
        # What stays frozen for its own reasons (the weights beside LoRA's matrices) is nobody's to thaw.
        if held and parameter.requires_grad:
            parameter.requires_grad_(False)
            parameter.everloop_frozen = True
            changed = True
        elif not held and getattr(parameter, "everloop_frozen", False):
            parameter.requires_grad_(True)
            parameter.everloop_frozen = False
            changed = True
    return changed


def check_patterns(module: torch.nn.Module, patterns: Mapping[str, int | None]) -> None:
    names = [name for name, _ in module.named_parameters()]
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
            shown = ", ".join(names[:6]) + (", …" if len(names) > 6 else "")
            raise TrainError(f"Torch.freeze names {pattern!r}, and no parameter is called so; there are {shown}.")
    if names and all(any(fnmatch.fnmatchcase(n, p) and u is None for p, u in patterns.items()) for n in names):
        raise TrainError("Torch.freeze keeps every parameter frozen for ever; leave something to be trained.")


def _factory(model: Function | Imported, source: Path | None) -> Callable[..., Any]:
    if isinstance(model, Function):
        if model.call is not None:
            return model.call
        if source is None:
            raise TrainError(f"the network {model.name!r} needs the declaration's source file.")
        return function.load(source, model.module_file_digest, model.name)
    module, _, name = model.path.rpartition(".")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise TrainError(
            f"{model.path} cannot be imported ({error}); install the package that holds it, or write the network in "
            "the declaration."
        ) from error
    return found


def _called(
    factory: Callable[..., Any], parameters: Mapping[str, Any], known: Mapping[str, Any], name: str
) -> torch.nn.Module:
    try:
        taken = set(inspect.signature(factory).parameters)
    except (TypeError, ValueError):
        taken = set()
    told = {each: value for each, value in known.items() if each in taken and each not in parameters}
    try:
        module = factory(**told, **parameters)
    except Exception as error:
        raise TrainError(f"the network {name} could not be built: {said(error)}.") from error
    if not isinstance(module, torch.nn.Module):
        raise TrainError(f"the network {name} is {type(module).__name__}; return a torch.nn.Module.")
    return module


def _materialise(module: torch.nn.Module, inputs: Tensors) -> None:
    """Layers that take their width from what comes in see two rows of zeros, which also shows whether it can run."""
    if not any(isinstance(each, torch.nn.parameter.UninitializedTensorMixin) for each in module.parameters()):
        return
    example = {
        name: torch.zeros((2, *shape), dtype=torch.from_numpy(np.zeros(0, dtype=inputs[name].dtype)).dtype)
        for name, shape in inputs.shapes.items()
    }
    with torch.no_grad():
        try:
            forward(module, example)
        except Exception as error:
            raise TrainError(f"the network fails on two rows of zeros: {said(error)}.") from error
