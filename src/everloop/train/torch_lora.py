"""Small matrices beside the weights (LoRA; Hu and others, 2021), through peft. Loaded only where a declaration asks."""

from typing import Any

import torch

from everloop.errors import TrainError
from everloop.spec.torch import LoRA


def adapted(module: Any, lora: LoRA) -> Any:
    """The module with its weights frozen, LoRA beside its linear layers, and its last layer trained as it is."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise TrainError(
            f"adapt=el.LoRA(…) needs peft, and it is not installed ({error}): pip install peft."
        ) from error
    linear = [name for name, each in module.named_modules() if isinstance(each, torch.nn.Linear)]
    if not linear:
        raise TrainError("adapt=el.LoRA(…) adapts linear layers, and the network has none; leave it out.")
    last = linear[-1]
    chosen = [n for n in linear if n != last and (not lora.targets or n.endswith(lora.targets))]
    if not chosen:
        raise TrainError(
            f"LoRA.targets is {lora.targets}, and no layer's name ends so; there are {', '.join(linear[:8])}."
        )
    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha if lora.alpha is not None else 2 * lora.rank, lora_dropout=lora.dropout,
        target_modules=chosen, modules_to_save=[last],
    )  # fmt: skip
    return get_peft_model(module, config)
