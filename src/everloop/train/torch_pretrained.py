"""Weights that somebody trained before: from a folder of transformers or timm, or from a hub that answers. Trains nothing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch

from everloop.errors import TrainError
from everloop.forms import PADDING
from everloop.measure.tensors import Tensors
from everloop.spec.torch import Pretrained
from everloop.train.files import digest

CONFIG = "config.json"
HUB_SECONDS = 5.0
"""A hub that has not answered by then is not reachable."""


def load(
    pretrained: Pretrained, parameters: Mapping[str, Any], inputs: Tensors, outputs: int, *, folder: Path | None
) -> Any:
    """A network with these weights and a new last layer of ``outputs`` where the old one has another number.

    ``parameters``: more of the library's own words, such as ``drop_rate`` of timm. Raises `TrainError`.
    """
    place = (folder or Path()) / pretrained.path
    if not place.is_dir():
        return _from_hub(pretrained, parameters, outputs, _padding(inputs))
    if not (place / CONFIG).exists():
        raise TrainError(f"{pretrained.path} holds no {CONFIG}; give a folder that transformers or timm has saved.")
    found = digest(place)
    if pretrained.digest is not None and found != pretrained.digest:
        raise TrainError(
            f"the weights in {pretrained.path} are {found[:12]}…, and the declaration wants {pretrained.digest[:12]}…; "
            "bring those back, or declare the new ones."
        )
    library = pretrained.library if pretrained.library != "auto" else _library(place)
    if library == "timm":
        return _timm(place, parameters, outputs)
    return _transformers(str(place), parameters, outputs, padding=_padding(inputs))


def _padding(inputs: Tensors) -> int:
    """The id that a transformer's one tensor of tokens is padded with."""
    return next((each.padding for each in inputs.special.values()), PADDING)


def _library(place: Path) -> str:
    config = msgspec.json.decode((place / CONFIG).read_bytes())
    return "timm" if "architecture" in config and "model_type" not in config else "transformers"


def _timm(place: Path, parameters: Mapping[str, Any], outputs: int) -> Any:
    try:
        import timm
    except ImportError as error:
        raise TrainError(
            f"{place.name} was saved by timm, and it is not installed ({error}): pip install timm."
        ) from error
    config = msgspec.json.decode((place / CONFIG).read_bytes())
    weights = next(
        iter([*sorted(place.glob("*.safetensors")), *sorted(place.glob("*.bin")), *sorted(place.glob("*.pth"))]), None
    )
    if weights is None:
        raise TrainError(f"{place.name} holds no weights (*.safetensors, *.bin, *.pth) beside {CONFIG}.")
    try:
        module = timm.create_model(
            config["architecture"], num_classes=outputs, **{**config.get("model_args", {}), **parameters}
        )
        kept = _state(weights)
        own = module.state_dict()
        fitting = {name: value for name, value in kept.items() if name in own and own[name].shape == value.shape}
        module.load_state_dict(fitting, strict=False)
    except (RuntimeError, TypeError, KeyError) as error:
        raise TrainError(f"{place.name} cannot be loaded by timm: {error}.") from error
    if len(fitting) < len(own) / 2:
        raise TrainError(f"only {len(fitting)} of {len(own)} weights of {place.name} fit {config['architecture']}.")
    return module


def _state(path: Path) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return dict(load_file(path))
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    inner: dict[str, Any] = state.get("state_dict", state)
    return inner


def _transformers(path: str, parameters: Mapping[str, Any], outputs: int, *, padding: int, local: bool = True) -> Any:
    try:
        import transformers
    except ImportError as error:
        raise TrainError(
            f"{path} was saved by transformers, and it is not installed ({error}): pip install 'everloop[hf]'."
        ) from error
    transformers.logging.set_verbosity_error()
    try:
        model = transformers.AutoModelForSequenceClassification.from_pretrained(
            path, num_labels=outputs, ignore_mismatched_sizes=True, local_files_only=local, **parameters
        )
    except (OSError, ValueError, TypeError) as error:
        if not local:
            raise
        raise TrainError(f"{Path(path).name} cannot be loaded by transformers: {str(error).splitlines()[0]}") from error
    _agree(model.config, padding, Path(path).name)
    return TokenClassifier(model, padding)


def _agree(config: Any, padding: int, name: str) -> None:
    """Some networks find places, or a text's last word, by the padding that they know themselves."""
    known = getattr(config, "pad_token_id", None)
    if known is None:
        config.pad_token_id = padding
    elif known != padding:
        raise TrainError(
            f"the weights in {name} were trained with the padding {known}, and the feature's tokens are padded with "
            f"{padding}; write tokens(…, tokenizer=…) with the tokenizer that was saved beside the weights."
        )


class TokenClassifier(torch.nn.Module):  # type: ignore[misc]
    """A transformer that takes one tensor of token ids [rows, length]; it looks at none that is ``padding``."""

    def __init__(self, model: Any, padding: int = PADDING) -> None:
        super().__init__()
        self.model, self.padding = model, padding

    def forward(self, tokens: torch.Tensor) -> Any:
        return self.model(input_ids=tokens, attention_mask=(tokens != self.padding).long()).logits


def _from_hub(pretrained: Pretrained, parameters: Mapping[str, Any], outputs: int, padding: int) -> Any:
    try:
        from huggingface_hub import model_info

        model_info(pretrained.path, timeout=HUB_SECONDS)  # or from_pretrained would try for most of a minute
        return _transformers(pretrained.path, parameters, outputs, padding=padding, local=False)
    except TrainError:
        raise
    except Exception as error:  # a hub fails in as many ways as networks do
        raise TrainError(
            f"pretrained is given {pretrained.path!r}, which is no folder beside the declaration, and no hub gives it "
            f"({type(error).__name__}: {(str(error).splitlines() or [''])[0]:.200}); download it once and give its folder."
        ) from error
