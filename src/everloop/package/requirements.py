"""Which libraries, at which versions, made a package. Knows nothing of what they were used for."""

import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from everloop.package.refused import steps

ALWAYS = ("everloop", "numpy", "onnx", "onnxruntime")
DISTRIBUTIONS = {
    "sklearn": ("scikit-learn",),
    "lightgbm": ("lightgbm",),
    "xgboost": ("xgboost", "xgboost-cpu"),
    "torch": ("torch",),
    "torchvision": ("torchvision",),
    "transformers": ("transformers",),
    "timm": ("timm",),
    "peft": ("peft",),
}


def requirements(
    model: Any, *, extensions: bool = False, images: bool = False, tokenizers: bool = False
) -> dict[str, str]:
    """Distribution → version, for the graph and for every estimator in ``model``.

    >>> sorted(requirements(None))[:2]
    ['everloop', 'numpy']
    """
    used = {"onnxruntime-extensions": extensions, "pillow": images, "tokenizers": tokenizers}
    names = [*ALWAYS, *(name for name, there in used.items() if there)]
    libraries = {type(step).__module__.partition(".")[0] for _, step in steps(model)}
    libraries.add(type(model).__module__.partition(".")[0])
    if hasattr(model, "module"):  # a trained network: whatever its layers come from
        libraries |= {type(each).__module__.partition(".")[0] for each in model.module.modules()}
    found = {}
    for library in sorted(libraries):
        names += DISTRIBUTIONS.get(library, ())
    if "skl2onnx" in sys.modules:
        names.append("skl2onnx")
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue  # a library may come under another name of its own: xgboost and xgboost-cpu
    found["python"] = ".".join(map(str, sys.version_info[:3]))
    return found
