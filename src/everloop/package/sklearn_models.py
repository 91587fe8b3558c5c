"""scikit-learn estimators as graph nodes in float64, written out where that is short, by skl2onnx where it is not.

Knows nothing of features or thresholds. Nothing here is trusted: parity on real rows decides (`package.parity`).
"""

from typing import Any

import numpy as np

from everloop.errors import ConversionRefused
from everloop.package import converted, lightgbm_trees, sklearn_trees, xgboost_trees
from everloop.package.graph import Graph

LINEAR_CLASSIFIERS = {
    "LogisticRegression", "LogisticRegressionCV", "SGDClassifier", "LinearSVC", "RidgeClassifier",
    "RidgeClassifierCV", "LinearDiscriminantAnalysis", "Perceptron", "PassiveAggressiveClassifier",
}  # fmt: skip
LINEAR_REGRESSORS = {
    "LinearRegression", "Ridge", "RidgeCV", "Lasso", "LassoCV", "ElasticNet", "ElasticNetCV", "SGDRegressor",
    "HuberRegressor", "BayesianRidge", "ARDRegression", "LinearSVR", "Lars", "LassoLars", "LassoLarsCV",
    "QuantileRegressor", "TheilSenRegressor", "PoissonRegressor", "GammaRegressor", "TweedieRegressor",
}  # fmt: skip
FORESTS = {"RandomForestClassifier", "ExtraTreesClassifier", "RandomForestRegressor", "ExtraTreesRegressor"}
TREES = {"DecisionTreeClassifier", "ExtraTreeClassifier", "DecisionTreeRegressor", "ExtraTreeRegressor"}


def probabilities(graph: Graph, matrix: str, estimator: Any) -> str:
    """[rows, classes the estimator knows]."""
    name, library = type(estimator).__name__, _library(estimator)
    if library == "lightgbm":
        return lightgbm_trees.prediction(graph, matrix, estimator.booster_)
    if library == "xgboost":
        return xgboost_trees.prediction(graph, matrix, estimator.get_booster(), rounds=xgboost_rounds(estimator))
    if library != "sklearn":
        return converted.probabilities(graph, matrix, estimator)
    if name == "Pipeline":
        return probabilities(graph, _before_last(graph, matrix, estimator), estimator.steps[-1][1])
    if name in TREES:
        return sklearn_trees.averaged(graph, matrix, [estimator], classifier=True)
    if name in FORESTS:
        return sklearn_trees.averaged(graph, matrix, list(estimator.estimators_), classifier=True)
    if name == "GradientBoostingClassifier":
        raw = sklearn_trees.gradient_boosting_raw(graph, matrix, estimator)
        if estimator.loss == "exponential":
            raw = graph.node("Mul", [raw, graph.scalar(2.0)])
        return _from_scores(graph, raw, len(estimator.classes_))
    if name == "HistGradientBoostingClassifier":
        raw = sklearn_trees.histogram_boosting_raw(graph, matrix, estimator)
        return _from_scores(graph, raw, len(estimator.classes_))
    if name in ("LogisticRegression", "LogisticRegressionCV", "LinearDiscriminantAnalysis"):
        return _from_scores(graph, _linear(graph, matrix, estimator), len(estimator.classes_))
    if name == "SGDClassifier" and estimator.loss == "log_loss" and len(estimator.classes_) == 2:
        return _from_scores(graph, _linear(graph, matrix, estimator), 2)
    if name == "MLPClassifier":
        raw = _perceptron(graph, matrix, estimator)
        return _from_scores(graph, raw, len(estimator.classes_))
    if name == "GaussianNB":
        return _gaussian(graph, matrix, estimator)
    if name == "CalibratedClassifierCV":
        return _mean(graph, [_calibrated(graph, matrix, each) for each in estimator.calibrated_classifiers_])
    if name == "VotingClassifier":
        each = [probabilities(graph, matrix, inner) for inner in estimator.estimators_]
        return _mean(graph, each, estimator._weights_not_none)
    if name == "StackingClassifier":
        return probabilities(graph, _stacked(graph, matrix, estimator), estimator.final_estimator_)
    if name == "DummyClassifier" and estimator.strategy in ("prior", "most_frequent"):
        proba = estimator.predict_proba(np.zeros((1, 1)))
        return _constant(graph, matrix, proba[0])
    return converted.probabilities(graph, matrix, estimator)


def value(graph: Graph, matrix: str, estimator: Any) -> str:
    """[rows, 1] of a regressor."""
    name, library = type(estimator).__name__, _library(estimator)
    if library == "lightgbm":
        return lightgbm_trees.prediction(graph, matrix, estimator.booster_)
    if library == "xgboost":
        return xgboost_trees.prediction(graph, matrix, estimator.get_booster(), rounds=xgboost_rounds(estimator))
    if library != "sklearn":
        return converted.value(graph, matrix, estimator)
    if name == "Pipeline":
        return value(graph, _before_last(graph, matrix, estimator), estimator.steps[-1][1])
    if name in TREES:
        return sklearn_trees.averaged(graph, matrix, [estimator], classifier=False)
    if name in FORESTS:
        return sklearn_trees.averaged(graph, matrix, list(estimator.estimators_), classifier=False)
    if name == "GradientBoostingRegressor":
        return sklearn_trees.gradient_boosting_raw(graph, matrix, estimator)
    if name == "HistGradientBoostingRegressor":
        raw = sklearn_trees.histogram_boosting_raw(graph, matrix, estimator)
        return graph.curved("Exp", raw, 1) if estimator.loss in ("poisson", "gamma") else raw
    if name in LINEAR_REGRESSORS:
        raw = _linear(graph, matrix, estimator)
        logarithmic = "Log" in type(getattr(getattr(estimator, "_base_loss", None), "link", None)).__name__
        return graph.curved("Exp", raw, 1) if logarithmic else raw
    if name == "MLPRegressor":
        return _perceptron(graph, matrix, estimator)
    if name == "VotingRegressor":
        return _mean(graph, [value(graph, matrix, e) for e in estimator.estimators_], estimator._weights_not_none)
    if name == "StackingRegressor":
        return value(graph, _stacked(graph, matrix, estimator), estimator.final_estimator_)
    if name == "DummyRegressor":
        return _constant(graph, matrix, estimator.constant_.reshape(-1))
    return converted.value(graph, matrix, estimator)


def transformed(graph: Graph, matrix: str, step: Any) -> str:
    """[rows, columns] of a fitted transformer."""
    name = type(step).__name__
    if step is None or step == "passthrough" or name == "FunctionTransformer":
        return matrix
    if _library(step) != "sklearn":
        return converted.transformed(graph, matrix, step)
    if name == "Pipeline":
        return transformed(graph, _before_last(graph, matrix, step), step.steps[-1][1])
    if name == "StandardScaler":
        return _scaled(graph, matrix, step.mean_ if step.with_mean else None, step.scale_ if step.with_std else None)
    if name == "RobustScaler":
        centre = step.center_ if step.with_centering else None
        return _scaled(graph, matrix, centre, step.scale_ if step.with_scaling else None)
    if name == "MaxAbsScaler" and not getattr(step, "clip", False):
        return _scaled(graph, matrix, None, step.scale_)
    if name == "MinMaxScaler" and not step.clip:
        spread = graph.node("Mul", [matrix, _row(graph, step.scale_)])
        return graph.node("Add", [spread, _row(graph, step.min_)])
    if name == "SimpleImputer" and isinstance(step.missing_values, float) and np.isnan(step.missing_values):
        kept = np.flatnonzero(~np.isnan(np.asarray(step.statistics_, dtype=np.float64)))
        chosen = matrix if len(kept) == len(step.statistics_) else graph.columns(matrix, kept.tolist())
        fill = _row(graph, np.asarray(step.statistics_, dtype=np.float64)[kept])
        return graph.node("Where", [graph.node("IsNaN", [chosen]), fill, chosen])
    if name == "PCA":
        centred = graph.node("Sub", [matrix, _row(graph, step.mean_)])
        turned = graph.node("MatMul", [centred, graph.constant(step.components_.T)])
        return _scaled(graph, turned, None, np.sqrt(step.explained_variance_)) if step.whiten else turned
    if name == "PolynomialFeatures":
        return _products(graph, matrix, step.powers_)
    if name == "ColumnTransformer":
        parts = []
        for _, inner, columns in step.transformers_:
            places = np.arange(step.n_features_in_)[columns].reshape(-1).tolist()
            if inner != "drop" and places:
                parts.append(transformed(graph, graph.columns(matrix, places), inner))
        return graph.concat(parts)
    if name == "FeatureUnion":
        return graph.concat([transformed(graph, matrix, each) for _, each in step.transformer_list if each != "drop"])
    if hasattr(step, "get_support"):
        return graph.columns(matrix, np.flatnonzero(step.get_support()).tolist())
    return converted.transformed(graph, matrix, step)


def xgboost_rounds(estimator: Any) -> int | None:
    """How many rounds the fitted XGBoost wrapper predicts with: up to the best one where it stopped early."""
    if getattr(estimator, "early_stopping_rounds", None) is None:
        return None
    return int(estimator.best_iteration) + 1


def _scores(graph: Graph, matrix: str, estimator: Any) -> str:
    """decision_function where there is one, else probabilities; binary as one column. What calibration starts from."""
    name = type(estimator).__name__
    if name == "Pipeline":
        return _scores(graph, _before_last(graph, matrix, estimator), estimator.steps[-1][1])
    if _library(estimator) == "sklearn":
        if name in LINEAR_CLASSIFIERS:
            return _linear(graph, matrix, estimator)
        if name == "GradientBoostingClassifier":
            return sklearn_trees.gradient_boosting_raw(graph, matrix, estimator)
        if name == "HistGradientBoostingClassifier":
            return sklearn_trees.histogram_boosting_raw(graph, matrix, estimator)
    if hasattr(estimator, "decision_function"):
        raise ConversionRefused(
            f"CalibratedClassifierCV over {name} has no form as a graph; calibrate a linear model or a tree ensemble."
        )
    answers = probabilities(graph, matrix, estimator)
    return graph.columns(answers, [1]) if len(estimator.classes_) == 2 else answers


def _calibrated(graph: Graph, matrix: str, each: Any) -> str:
    if each.method not in ("sigmoid", "isotonic"):
        raise ConversionRefused(
            f"CalibratedClassifierCV(method={each.method!r}) has no form as a graph; use 'sigmoid' or 'isotonic'."
        )
    scores = _scores(graph, matrix, each.estimator)
    columns = [scores] if len(each.classes) == 2 else [graph.columns(scores, [i]) for i in range(len(each.classes))]
    calibrated = []
    for column, calibrator in zip(columns, each.calibrators, strict=True):
        if each.method == "sigmoid":
            line = graph.node("Mul", [column, graph.scalar(-float(calibrator.a_))])
            line = graph.node("Sub", [line, graph.scalar(float(calibrator.b_))])
            calibrated.append(graph.curved("Sigmoid", line, 1))
        else:
            calibrated.append(_isotonic(graph, column, calibrator))
    if len(each.classes) == 2:
        return graph.binary(calibrated[0])
    return _normalised(graph, graph.concat(calibrated), len(each.classes))


def _isotonic(graph: Graph, column: str, calibrator: Any) -> str:
    """Linear between the thresholds: each step adds its rise times how far the score has gone through it."""
    at, rise = np.asarray(calibrator.X_thresholds_, np.float64), np.asarray(calibrator.y_thresholds_, np.float64)
    if len(at) < 2:
        return _constant(graph, column, rise[:1])
    gone = graph.node("Sub", [column, _row(graph, at[:-1])])
    gone = graph.node("Div", [gone, _row(graph, np.diff(at))])
    gone = graph.node("Clip", [gone, graph.scalar(0.0), graph.scalar(1.0)])
    total = graph.node("MatMul", [gone, graph.constant(np.diff(rise).reshape(-1, 1))])
    return graph.node("Add", [total, graph.scalar(float(rise[0]))])


def _stacked(graph: Graph, matrix: str, estimator: Any) -> str:
    parts = []
    for each, method in zip(estimator.estimators_, estimator.stack_method_, strict=True):
        if method == "predict_proba":
            answers = probabilities(graph, matrix, each)
            parts.append(graph.columns(answers, [1]) if len(each.classes_) == 2 else answers)
        elif method == "decision_function":
            parts.append(_scores(graph, matrix, each))
        elif hasattr(each, "classes_"):
            raise ConversionRefused(
                f"stacking the predictions of {type(each).__name__} has no form as a graph; use "
                "stack_method='predict_proba'."
            )
        else:
            parts.append(value(graph, matrix, each))
    return graph.concat([*parts, matrix] if estimator.passthrough else parts)


def _before_last(graph: Graph, matrix: str, pipeline: Any) -> str:
    for _, step in pipeline.steps[:-1]:
        matrix = transformed(graph, matrix, step)
    return matrix


def _linear(graph: Graph, matrix: str, estimator: Any) -> str:
    weights = np.asarray(estimator.coef_, dtype=np.float64)
    weights = weights.reshape(-1, weights.shape[-1]).T
    total = graph.product(matrix, weights)
    intercept = np.broadcast_to(np.asarray(estimator.intercept_, np.float64).reshape(-1), (weights.shape[1],))
    return graph.node("Add", [total, _row(graph, intercept)])


def _perceptron(graph: Graph, matrix: str, estimator: Any) -> str:
    activations = {"relu": "Relu", "tanh": "Tanh", "logistic": "Sigmoid"}
    for place, (weights, bias) in enumerate(zip(estimator.coefs_, estimator.intercepts_, strict=True)):
        matrix = graph.node("MatMul", [matrix, graph.constant(weights)])
        matrix = graph.node("Add", [matrix, _row(graph, bias)])
        if place < len(estimator.coefs_) - 1 and estimator.activation != "identity":
            matrix = graph.curved(activations[estimator.activation], matrix, len(bias))
    return matrix


def _gaussian(graph: Graph, matrix: str, estimator: Any) -> str:
    """Log joint density of each class, then softmax (Bishop, Pattern Recognition and Machine Learning, 4.2)."""
    columns = []
    for place, prior in enumerate(estimator.class_prior_):
        variance = estimator.var_[place]
        base = np.log(prior) - 0.5 * np.sum(np.log(2.0 * np.pi * variance))
        away = graph.node("Sub", [matrix, _row(graph, estimator.theta_[place])])
        away = graph.node("Mul", [away, away])
        away = graph.node("MatMul", [away, graph.constant((-0.5 / variance).reshape(-1, 1))])
        columns.append(graph.node("Add", [away, graph.scalar(float(base))]))
    return graph.softmax(graph.concat(columns), len(columns))


def _from_scores(graph: Graph, scores: str, classes: int) -> str:
    if classes == 2:
        return graph.logistic(scores)
    return graph.softmax(scores, classes)


def _normalised(graph: Graph, shares: str, classes: int) -> str:
    total = graph.node("ReduceSum", [shares, graph.constant([1], np.int64)], keepdims=1)
    empty = graph.node("Equal", [total, graph.scalar(0.0)])
    divided = graph.node("Div", [shares, graph.node("Where", [empty, graph.scalar(1.0), total])])
    return graph.node("Where", [empty, graph.scalar(1.0 / classes), divided])


def _mean(graph: Graph, parts: list[str], weights: Any = None) -> str:
    shares = np.ones(len(parts)) if weights is None else np.asarray(weights, dtype=np.float64)
    shares = shares / shares.sum()
    weighted = [graph.node("Mul", [p, graph.scalar(float(s))]) for p, s in zip(parts, shares, strict=True)]
    return weighted[0] if len(weighted) == 1 else graph.node("Sum", weighted)


def _products(graph: Graph, matrix: str, powers: Any) -> str:
    """Every output is a product of at most ``degree`` columns; what is short of it is filled with a column of ones."""
    ones = _constant(graph, matrix, np.ones(1))
    wide = graph.concat([matrix, ones])
    width, degree = powers.shape[1], max(1, int(powers.sum(axis=1).max()))
    factors = [np.repeat(np.arange(width), row).tolist() for row in powers]
    padded = np.array([each + [width] * (degree - len(each)) for each in factors])
    product = graph.columns(wide, padded[:, 0].tolist())
    for place in range(1, degree):
        product = graph.node("Mul", [product, graph.columns(wide, padded[:, place].tolist())])
    return product


def _scaled(graph: Graph, matrix: str, centre: Any, scale: Any) -> str:
    if centre is not None:
        matrix = graph.node("Sub", [matrix, _row(graph, centre)])
    return matrix if scale is None else graph.node("Div", [matrix, _row(graph, scale)])


def _constant(graph: Graph, matrix: str, values: Any) -> str:
    rows = graph.node("Shape", [matrix], end=1)
    shape = graph.node("Concat", [rows, graph.constant([len(values)], np.int64)], axis=0)
    return graph.node("Expand", [_row(graph, values), shape])


def _row(graph: Graph, values: Any) -> str:
    return graph.constant(np.asarray(values, dtype=np.float64).reshape(1, -1))


def _library(estimator: Any) -> str:
    return type(estimator).__module__.partition(".")[0]
