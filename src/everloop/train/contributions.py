"""A boosted model's own contributions: what each column of the matrix brought to one answer (TreeSHAP, in C++).

Keeps the model as text or bytes that LightGBM and XGBoost read without unpickling. Knows nothing of features or packages.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

LIGHTGBM, XGBOOST = "lightgbm.txt", "xgboost.ubj"


def kept(fitted: Any) -> tuple[str, bytes] | None:
    """The name and content of a file that `contributions` reads; None for models that have no contributions of their own."""
    model = fitted.model
    library, name = type(model).__module__.partition(".")[0], type(model).__name__
    if tuple(fitted.present) != tuple(range(fitted.classes)):
        return None  # the model's columns are not the classes
    if library == "lightgbm":
        booster = model if name == "Booster" else model.booster_
        return LIGHTGBM, booster.model_to_string().encode()
    if library == "xgboost":
        booster = model if name == "Booster" else model.get_booster()
        return XGBOOST, bytes(booster.save_raw("ubj"))
    return None


def contributions(name: str, content: bytes, matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """float64 [rows, outputs, width + 1]: what each column adds to the raw score; the last is what all rows share.

    Raw: log odds of class 1 for two classes, the margins before softmax for more, the (logarithmised) value else.
    """
    if name == LIGHTGBM:
        from lightgbm import Booster

        said = np.asarray(Booster(model_str=content.decode()).predict(matrix, pred_contrib=True), dtype=np.float64)
        return said.reshape(len(matrix), -1, matrix.shape[1] + 1)
    from xgboost import Booster as XGBooster
    from xgboost import DMatrix

    booster = XGBooster()
    booster.load_model(bytearray(content))
    said = np.asarray(booster.predict(DMatrix(matrix), pred_contribs=True), dtype=np.float64)
    return said.reshape(len(matrix), -1, matrix.shape[1] + 1)
