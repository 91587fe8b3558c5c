"""Whether an estimator takes a matrix that keeps only what is not 0. Knows nothing of how the matrix was made."""

from typing import Any

from everloop.errors import TrainError

LARGEST = 4 * 2**30
"""Bytes of a matrix that is written out in full for an estimator that takes no other."""


def taken(model: Any, matrix: Any) -> Any:
    """``matrix`` as ``model`` takes it: csr_matrix, or float64 in full. Raises `TrainError` where that is too large."""
    if not hasattr(matrix, "toarray") or _takes_sparse(model):
        return matrix
    rows, width = matrix.shape
    if rows * width * 8 > LARGEST:
        raise TrainError(
            f"{type(model).__name__} takes no sparse matrix, and {rows} rows by {width} columns in full are "
            f"{rows * width * 8 / 2**30:.1f} GB; lower max_features in .text(), or use an estimator that takes sparse "
            "matrices, for example LogisticRegression, SGDClassifier or LGBMClassifier."
        )
    return matrix.toarray()


def _takes_sparse(model: Any) -> bool:
    library = type(model).__module__.partition(".")[0]
    if library == "lightgbm":
        return True
    if library != "sklearn":  # for XGBoost what is not kept is missing, not 0
        return False
    from sklearn.utils import get_tags

    return bool(get_tags(model).input_tags.sparse)
