"""Which fitted models are refused before any conversion is tried, and what to use instead.

These were seen to convert without an error and to answer wrongly, to fail only at run time, or to have no converter;
see the tests. Knows nothing of how the others are converted.
"""

from collections.abc import Iterator
from typing import Any

from everloop.errors import ConversionRefused

REMEDIES = {
    "KNNImputer": "its conversion answers wrongly; leave missing numbers to everloop, which fills the median or keeps "
    "them missing",
    "IterativeImputer": "it has no converter; leave missing numbers to everloop",
    "MissingIndicator": "it has no faithful conversion; write a feature such as row.x.is_missing()",
    "SplineTransformer": "it has no converter; use KBinsDiscretizer or a tree",
    "FunctionTransformer": "a Python function cannot be served; write it as a feature, for example row.x.log()",
    "KNeighborsClassifier": "it carries the training rows and breaks ties by their order; use a tree ensemble",
    "KNeighborsRegressor": "it carries the training rows and breaks ties by their order; use a tree ensemble",
    "RadiusNeighborsClassifier": "it carries the training rows; use a tree ensemble",
    "RadiusNeighborsRegressor": "it carries the training rows; use a tree ensemble",
    "GaussianProcessClassifier": "it carries the training rows; use a tree ensemble",
    "GaussianProcessRegressor": "it carries the training rows; use a tree ensemble",
    "TransformedTargetRegressor": 'use el.Label(…, scale="log1p") instead',
    "OrdinalEncoder": "everloop encodes categories itself; give the column as a feature",
    "TargetEncoder": "everloop encodes categories itself; give the column as a feature",
}


def check(model: Any) -> None:
    """Raise `ConversionRefused` naming the first step that must not be converted."""
    for path, step in steps(model):
        name = type(step).__name__
        where = f"{name} (at {path})" if path else name
        if type(step).__module__.startswith("catboost"):
            raise ConversionRefused(f"{where}: CatBoost has no faithful conversion; use LightGBM or XGBoost.")
        if name == "FunctionTransformer" and step.func is None:
            continue
        if name in REMEDIES:
            raise ConversionRefused(f"{where} cannot become part of a graph: {REMEDIES[name]}.")
        if name == "SimpleImputer" and step.add_indicator:
            raise ConversionRefused(
                f"{where} with add_indicator=True converts without an error and answers wrongly; leave missing "
                "numbers to everloop, or write a feature such as row.x.is_missing()."
            )
        if name == "OneHotEncoder":
            raise ConversionRefused(
                f"{where}: everloop encodes categories itself, unseen and rare ones included; give the column as a "
                "feature and leave the encoder out."
            )


def steps(model: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The model and every estimator inside it, with its path."""
    if isinstance(model, list | tuple):
        for place, each in enumerate(model):
            yield from steps(each, f"{path}[{place}]")
        return
    if not hasattr(model, "get_params"):
        return
    yield path, model
    parameters = model.get_params(deep=False)
    fitted = {n: v for n, v in vars(model).items() if n in ("transformers_", "steps", "estimator_", "transformer_list")}
    for name, value in {**parameters, **fitted}.items():
        if name == "steps" or name == "transformers" or name == "transformers_" or name == "transformer_list":
            for item in value or ():
                yield from steps(item[1], f"{path}.{item[0]}" if path else str(item[0]))
        elif hasattr(value, "get_params") or isinstance(value, list | tuple):
            yield from steps(value, f"{path}.{name}" if path else name)
