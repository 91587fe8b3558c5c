"""A neural network as frozen values: which module, and how it is trained. Imports no torch and trains nothing."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from everloop.errors import SpecError
from everloop.spec.augment import Augmentation
from everloop.spec.conform import conform, shown
from everloop.spec.function import DECLARATION, Function
from everloop.spec.plain import plain
from everloop.spec.taught import taught

FACTS = ("inputs", "outputs", "num_classes", "num_labels", "shapes")
"""What a factory is told when it takes a parameter of this name that the declaration does not give."""


def _at_least(value: int, least: int, where: str) -> None:
    if value < least:
        raise SpecError(f"{where} is {value}; write at least {least}.")


def _above(value: float, where: str, example: str) -> None:
    if value <= 0:
        raise SpecError(f"{where} is {value:g}; write more than 0, for example {example}.")


def _share(value: float, where: str) -> None:
    if not 0 <= value < 1:
        raise SpecError(f"{where} is {value:g}; write a share from 0 up to but not 1.")


def _between(value: float, where: str, example: float) -> None:
    if not 0 < value < 1:
        raise SpecError(f"{where} is {value:g}; write a number between 0 and 1, for example {example:g}.")


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A class or factory that is found by its path, ``module.name``."""

    path: str

    @property
    def name(self) -> str:
        return self.path.rpartition(".")[2]


@taught
@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """Weights to begin with: a folder of transformers or timm (relative to the declaration), or an id on a hub."""

    path: str = field(kw_only=False)
    library: Literal["auto", "transformers", "timm"] = "auto"
    """``auto``: what the folder's config.json says."""
    digest: str | None = None
    """SHA-256 over the folder's files; when given, other weights are refused. `everloop check` says what it is."""

    def __post_init__(self) -> None:
        conform(self)
        if not self.path:
            raise SpecError('pretrained is given ""; write the path of a folder with weights, or the id of a hub.')

    @property
    def name(self) -> str:
        return self.path.rstrip("/").rpartition("/")[2]


def pretrained(
    path: str, *, library: Literal["auto", "transformers", "timm"] = "auto", digest: str | None = None
) -> Pretrained:
    """Weights from a folder, or from a hub where one is reachable; when it is read is the fit's business.

    >>> pretrained("weights/bert-tiny").name
    'bert-tiny'
    """
    return Pretrained(path, library=library, digest=digest)


@taught
@dataclass(frozen=True, kw_only=True)
class LoRA:
    """Train small matrices of this rank beside the weights instead of the weights; merged into them when packaged."""

    rank: int = field(default=8, kw_only=False)
    alpha: float | None = None
    """The update is multiplied by alpha / rank; None: twice the rank."""
    dropout: float = 0.0
    targets: tuple[str, ...] = ()
    """Ends of the names of layers that are adapted; none: every linear layer but the last."""

    def __post_init__(self) -> None:
        conform(self)
        _at_least(self.rank, 1, "LoRA.rank")
        _share(self.dropout, "LoRA.dropout")


@taught
@dataclass(frozen=True, kw_only=True)
class Cosine:
    """Rise over the first part of the steps, then fall along half a cosine (Loshchilov and Hutter, 2017)."""

    warm_up: float = 0.05
    """The share of all steps over which the learning rate rises from 0."""
    floor: float = 0.0
    """What is left at the end, as a share of the learning rate."""

    def __post_init__(self) -> None:
        conform(self)
        _share(self.warm_up, "Cosine.warm_up")
        _share(self.floor, "Cosine.floor")


@taught
@dataclass(frozen=True, kw_only=True)
class Plateau:
    """Multiply the learning rate by ``factor`` when the validation score has not improved for ``patience`` epochs."""

    patience: int = 2
    factor: float = 0.5
    share: float = 0.1
    """The newest share of the training rows is what is judged on, and not trained on."""

    def __post_init__(self) -> None:
        conform(self)
        _at_least(self.patience, 1, "Plateau.patience")
        _between(self.factor, "Plateau.factor", 0.5)
        _between(self.share, "Plateau.share", 0.1)


@taught
@dataclass(frozen=True, kw_only=True)
class EarlyStopping:
    """End when the score has not improved for ``patience`` epochs; the best epoch's weights are what is kept."""

    patience: int = 3
    share: float = 0.1
    """The newest share of the training rows is what is judged on, and not trained on."""
    least: float = 0.0
    """What counts as an improvement must be more than this."""

    def __post_init__(self) -> None:
        conform(self)
        _at_least(self.patience, 1, "EarlyStopping.patience")
        _between(self.share, "EarlyStopping.share", 0.1)
        if self.least < 0:
            raise SpecError(f"EarlyStopping.least is {self.least:g}; write 0 or more.")


Optimiser = Literal["adamw", "adam", "sgd", "rmsprop", "adagrad"]
NamedLoss = Literal["cross_entropy", "mse", "mae", "huber"]
DEFAULT_SCHEDULE = Cosine()
TUNABLE = (
    "optimiser", "learning_rate", "weight_decay", "momentum", "epochs", "batch_size", "label_smoothing",
    "clip_gradient", "precision",
)  # fmt: skip
"""Fields that a search may try values of, beside the model's own parameters."""


@taught
@dataclass(frozen=True, kw_only=True)
class Torch:
    """Any ``torch.nn.Module`` and how it is trained.

    ``model``: a class or a function of the declaration, one of an installed package (itself or its path as text), or
    `pretrained`. It is called with ``parameters``, and with those of `FACTS` that it takes. Its forward gets the one
    tensor that there is, or several by name: ``columns`` float32 [rows, width]. It answers logits [rows, classes]
    (binary: also [rows] or [rows, 1]), or [rows] or [rows, 1] for a regression.
    """

    model: Function | Imported | Pretrained = field(kw_only=False)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    loss: NamedLoss | Function | None = None
    """None: cross entropy, or the squared error. A function ``(outputs, targets)`` gives [rows], or their mean."""
    optimiser: Optimiser = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    momentum: float = 0.9
    """Of ``sgd`` and ``rmsprop``."""
    schedule: Cosine | Plateau | None = DEFAULT_SCHEDULE
    epochs: int = 10
    batch_size: int = 64
    """Rows of one step of the optimiser, over all processes and all parts."""
    accumulate: int = 1
    """In so many parts a step's rows go through the network, when memory does not hold them at once."""
    clip_gradient: float | None = 1.0
    """The largest norm of all gradients together."""
    early_stopping: EarlyStopping | None = None
    label_smoothing: float = 0.0
    augment: tuple[Augmentation, ...] = ()
    """What is done to training rows, in this order, anew in each epoch: `everloop.spec.augment`."""
    freeze: Mapping[str, int | None] = field(default_factory=dict)
    """Patterns of parameters' names, ``"backbone.*"``: frozen for so many epochs; None: for ever."""
    adapt: LoRA | None = None
    start: Literal["scratch", "champion"] = "scratch"
    """``champion``: with the weights, and the encoding, of the version that serves."""
    replay: float = 0.0
    """So many labelled rows of before the window for each row in it, drawn at random, against forgetting."""
    precision: Literal["auto", "32", "bf16", "fp16"] = "auto"
    """``auto``: bf16 where the machine has matrix units for it, else 32."""
    compile: Literal["auto", "on", "off"] = "auto"
    """``auto``: torch.compile where a measurement of the first steps says that it pays."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    deterministic: bool = False
    """Only operations that always give the same bits, and nothing that a measurement decides."""
    checkpoint_every: timedelta = timedelta(seconds=60)
    """So much work is lost at most when the fit is killed."""

    if TYPE_CHECKING:  # the short forms that people write

        def __init__(
            self,
            model: Any,
            *,
            parameters: Mapping[str, Any] = ...,
            loss: NamedLoss | Callable[..., Any] | None = None,
            optimiser: Optimiser = "adamw",
            learning_rate: float = 1e-3,
            weight_decay: float = 0.01,
            momentum: float = 0.9,
            schedule: Cosine | Plateau | None = DEFAULT_SCHEDULE,
            epochs: int = 10,
            batch_size: int = 64,
            accumulate: int = 1,
            clip_gradient: float | None = 1.0,
            early_stopping: EarlyStopping | None = None,
            label_smoothing: float = 0.0,
            augment: Sequence[Augmentation] = (),
            freeze: Mapping[str, int | None] = ...,
            adapt: LoRA | None = None,
            start: Literal["scratch", "champion"] = "scratch",
            replay: float = 0.0,
            precision: Literal["auto", "32", "bf16", "fp16"] = "auto",
            compile: Literal["auto", "on", "off"] = "auto",
            device: Literal["auto", "cpu", "cuda"] = "auto",
            deterministic: bool = False,
            checkpoint_every: timedelta = timedelta(seconds=60),
        ) -> None: ...

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", _model(self.model))
        if callable(self.loss) and not isinstance(self.loss, Function):
            object.__setattr__(self, "loss", Function.of(self.loss, "Torch.loss"))
        if isinstance(self.parameters, Mapping):
            given = {name: plain(value, f"Torch.parameters[{name!r}]") for name, value in self.parameters.items()}
            object.__setattr__(self, "parameters", _listed(given))
        conform(self)
        for name, least in (("epochs", 1), ("batch_size", 1), ("accumulate", 1)):
            _at_least(getattr(self, name), least, f"Torch.{name}")
        _above(self.learning_rate, "Torch.learning_rate", "1e-3")
        if self.weight_decay < 0:
            raise SpecError(f"Torch.weight_decay is {self.weight_decay:g}; write 0 or more.")
        if self.clip_gradient is not None:
            _above(self.clip_gradient, "Torch.clip_gradient", "1.0, or None for no limit")
        _share(self.momentum, "Torch.momentum")
        _share(self.label_smoothing, "Torch.label_smoothing")
        if self.label_smoothing and self.loss not in (None, "cross_entropy"):
            raise SpecError(
                f"Torch.label_smoothing is {self.label_smoothing:g}, and Torch.loss is {self._loss}; only the cross "
                "entropy smooths labels: leave one of them out."
            )
        if self.accumulate > self.batch_size:
            raise SpecError(
                f"Torch.accumulate is {self.accumulate}, and a batch has {self.batch_size} rows; write at most that."
            )
        if self.replay < 0:
            raise SpecError(f"Torch.replay is {self.replay:g}; write 0 or more, for example 0.5.")
        for pattern, epochs in self.freeze.items():
            if epochs is not None:
                _at_least(epochs, 1, f"Torch.freeze[{pattern!r}]")
        if self.checkpoint_every < timedelta(0):
            raise SpecError(f"Torch.checkpoint_every is {self.checkpoint_every}; write 0 (after each step) or more.")

    def __hash__(self) -> int:
        return hash((self.model, tuple(sorted(self.parameters)), self.optimiser, self.learning_rate, self.epochs))

    @property
    def name(self) -> str:
        return f"Torch({self.model.name})"

    @property
    def last(self) -> Torch:
        """Itself: as an estimator says which of its parts predicts."""
        return self

    @property
    def _loss(self) -> str:
        return self.loss.name if isinstance(self.loss, Function) else str(self.loss)

    @property
    def validation_share(self) -> float:
        """The share of the training rows that the epochs are judged on; 0: none is."""
        if self.early_stopping is not None:
            return self.early_stopping.share
        return self.schedule.share if isinstance(self.schedule, Plateau) else 0.0

    def taking(self, name: str) -> tuple[str, ...] | None:
        """None if a search may try values of ``name``, else the names of which it may."""
        known = (*TUNABLE, *self.parameters)
        return None if name in known else tuple(sorted(known))

    def trying(self, parameters: Mapping[str, Any]) -> Torch:
        """The declaration with the values that a search chose: of its own fields, or of the model's parameters."""
        own = {name: value for name, value in parameters.items() if name in TUNABLE}
        others = {name: value for name, value in parameters.items() if name not in TUNABLE}
        return dataclasses.replace(self, **own, parameters={**self.parameters, **others})

    @property
    def tried(self) -> dict[str, Any]:
        """The declared value of everything that a search may try."""
        return {**{name: getattr(self, name) for name in TUNABLE}, **self.parameters}


def _model(given: Any) -> Function | Imported | Pretrained:
    if isinstance(given, Function | Imported | Pretrained):
        return given
    if isinstance(given, str):
        if "." not in given or not all(part.isidentifier() for part in given.split(".")):
            raise SpecError(
                f'Torch.model is {shown(given)}, which is no path of a class; write for example "mypackage.nets.Net", '
                "or el.pretrained(…) for a folder of weights."
            )
        return Imported(path=given)
    if hasattr(given, "state_dict") and not inspect.isclass(given):
        raise SpecError(
            f"Torch.model is a {type(given).__name__} that is built already; write its class, {type(given).__name__}, "
            "and what it is built with as parameters={…}, so that each fit begins anew."
        )
    if not callable(given):
        raise SpecError(f"Torch.model is {shown(given)}; write the class of a module, or a function that builds one.")
    if _in_a_script(given):
        return Function.of(given, "Torch.model", classes=True)
    return Imported(path=f"{given.__module__}.{given.__qualname__}")


def _in_a_script(given: Any) -> bool:
    """Whether it stands in a file that no other process would find by its name: the declaration, a script, a test."""
    name = getattr(given, "__module__", "") or "__main__"
    if name == "__main__" or name.startswith(DECLARATION) or "<" in getattr(given, "__qualname__", ""):
        return True
    file = str(getattr(sys.modules.get(name), "__file__", ""))
    return "." not in name and not any(place in file for place in ("site-packages", "dist-packages"))


def _listed(value: Any) -> Any:
    """Tuples as lists, for JSON knows no tuples and equal declarations have one digest."""
    if isinstance(value, Mapping):
        return {name: _listed(each) for name, each in value.items()}
    return [_listed(each) for each in value] if isinstance(value, list | tuple) else value
