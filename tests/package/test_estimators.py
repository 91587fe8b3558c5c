"""Every estimator passes parity on numbers, integers, booleans, texts and holes, or is refused by its name."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
from lightgbm import LGBMClassifier, LGBMRegressor
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import (
    AdaBoostClassifier,
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.feature_selection import VarianceThreshold
from sklearn.impute import KNNImputer, SimpleImputer
from sklearn.linear_model import (
    ElasticNet,
    HuberRegressor,
    Lasso,
    LinearRegression,
    LogisticRegression,
    PoissonRegressor,
    Ridge,
    SGDClassifier,
)
from sklearn.naive_bayes import BernoulliNB, GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    MaxAbsScaler,
    MinMaxScaler,
    PolynomialFeatures,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    SplineTransformer,
    StandardScaler,
)
from sklearn.svm import SVC, LinearSVC, LinearSVR
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from xgboost import XGBClassifier, XGBRegressor

from everloop.errors import ConversionRefused, ParityError, TrainError

Turn = Callable[..., Any]


def scaled(last: Any) -> Pipeline:
    return make_pipeline(StandardScaler(), last)


CLASSIFIERS = [
    scaled(LogisticRegression()),
    LogisticRegression(max_iter=5000),
    make_pipeline(MinMaxScaler(), LogisticRegression(C=0.1)),
    make_pipeline(RobustScaler(), MaxAbsScaler(), LogisticRegression()),
    make_pipeline(StandardScaler(), PCA(n_components=4, whiten=True), LogisticRegression()),
    make_pipeline(SimpleImputer(), StandardScaler(), VarianceThreshold(0.9), LogisticRegression()),
    make_pipeline(FeatureUnion([("a", StandardScaler()), ("b", PCA(2))]), StandardScaler(), LogisticRegression()),
    make_pipeline(
        ColumnTransformer([("a", StandardScaler(), [0, 1]), ("b", MinMaxScaler(), [2])], remainder="passthrough"),
        LogisticRegression(max_iter=1000),
    ),
    make_pipeline(StandardScaler(), PolynomialFeatures(3, interaction_only=True), LogisticRegression(max_iter=1000)),
    scaled(SGDClassifier(loss="log_loss")),
    scaled(LinearDiscriminantAnalysis()),
    DecisionTreeClassifier(max_depth=6),
    RandomForestClassifier(30),
    RandomForestClassifier(20, criterion="entropy", min_samples_leaf=9),
    ExtraTreesClassifier(20, max_depth=8),
    GradientBoostingClassifier(n_estimators=20),
    GradientBoostingClassifier(n_estimators=20, init="zero"),
    scaled(GradientBoostingClassifier(n_estimators=20)),
    HistGradientBoostingClassifier(max_iter=20),
    scaled(MLPClassifier((12, 6), max_iter=60)),
    scaled(MLPClassifier((8,), activation="tanh", max_iter=60)),
    GaussianNB(),
    scaled(CalibratedClassifierCV(LinearSVC())),
    CalibratedClassifierCV(RandomForestClassifier(10), method="isotonic", cv=3),
    VotingClassifier([("a", RandomForestClassifier(10)), ("b", GaussianNB())], voting="soft", weights=[2, 1]),
    StackingClassifier([("a", RandomForestClassifier(10)), ("b", GaussianNB())], LogisticRegression(), cv=3),
    DummyClassifier(),
    XGBClassifier(n_estimators=30, max_depth=4),
    XGBClassifier(n_estimators=10, booster="dart", rate_drop=0.2),
    scaled(XGBClassifier(n_estimators=30)),
    LGBMClassifier(n_estimators=30),
    LGBMClassifier(n_estimators=30, boosting_type="dart"),
    LGBMClassifier(n_estimators=20, boosting_type="rf", subsample=0.6, subsample_freq=1),
    LGBMClassifier(n_estimators=30, zero_as_missing=True),
    LGBMClassifier(n_estimators=30, use_missing=False),
    LGBMClassifier(n_estimators=30, is_unbalance=True, boost_from_average=False),
    scaled(LGBMClassifier(n_estimators=30)),
]

REGRESSORS = [
    LinearRegression(),
    Ridge(),
    scaled(Lasso(alpha=0.01)),
    scaled(ElasticNet(alpha=0.01)),
    scaled(HuberRegressor(max_iter=500)),
    scaled(LinearSVR()),
    DecisionTreeRegressor(max_depth=7),
    RandomForestRegressor(20),
    ExtraTreesRegressor(20, max_depth=9),
    GradientBoostingRegressor(n_estimators=20),
    GradientBoostingRegressor(n_estimators=20, loss="quantile", alpha=0.8),
    HistGradientBoostingRegressor(max_iter=20),
    scaled(MLPRegressor(hidden_layer_sizes=(12,), max_iter=60)),
    VotingRegressor([("a", RandomForestRegressor(10)), ("b", Ridge())]),
    StackingRegressor([("a", RandomForestRegressor(10)), ("b", Ridge())], Ridge(), cv=3, passthrough=True),
    DummyRegressor(),
    XGBRegressor(n_estimators=30, max_depth=4),
    XGBRegressor(n_estimators=30, base_score=0.7),
    XGBRegressor(n_estimators=10, num_parallel_tree=3, subsample=0.7),
    LGBMRegressor(n_estimators=30),
    LGBMRegressor(n_estimators=30, objective="regression_l1"),
    LGBMRegressor(n_estimators=30, reg_sqrt=True),
]

POSITIVE = [
    PoissonRegressor(),
    HistGradientBoostingRegressor(loss="poisson", max_iter=20),
    XGBRegressor(objective="count:poisson", n_estimators=20),
    XGBRegressor(objective="reg:gamma", n_estimators=20),
    LGBMRegressor(objective="poisson", n_estimators=20),
    LGBMRegressor(objective="tweedie", n_estimators=20),
]


def quiet(turn: Turn, *arguments: Any, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few iterations are enough here: what matters is that both sides agree
        return turn(*arguments, **options)


@pytest.mark.parametrize("estimator", CLASSIFIERS, ids=str)
def test_a_classifier_and_its_graph_agree(
    estimator: Any, turn: Turn, made_rows: pl.DataFrame, signal: np.ndarray
) -> None:
    target = (signal > np.median(signal)).astype(np.int64)
    turned = quiet(turn, estimator, made_rows, target, task="binary", threshold=0.4)
    assert turned.built.parity.worst <= 1.0
    assert turned.built.parity.rows == len(made_rows)
    assert turned.built.parity.mutated > 500


FOUR_CLASSES = [
    scaled(LogisticRegression()),
    scaled(SGDClassifier(loss="log_loss")),
    scaled(LinearDiscriminantAnalysis()),
    DecisionTreeClassifier(max_depth=6),
    RandomForestClassifier(20),
    ExtraTreesClassifier(20, max_depth=8),
    GradientBoostingClassifier(n_estimators=8),
    HistGradientBoostingClassifier(max_iter=5),
    scaled(MLPClassifier((12, 6), max_iter=30)),
    GaussianNB(),
    scaled(CalibratedClassifierCV(LinearSVC(), cv=3)),
    CalibratedClassifierCV(RandomForestClassifier(10), method="isotonic", cv=3),
    VotingClassifier([("a", RandomForestClassifier(10)), ("b", GaussianNB())], voting="soft"),
    StackingClassifier([("a", RandomForestClassifier(10)), ("b", GaussianNB())], scaled(LogisticRegression()), cv=3),
    XGBClassifier(n_estimators=20, max_depth=4),
    LGBMClassifier(n_estimators=20),
    LGBMClassifier(n_estimators=20, objective="multiclassova"),
]


@pytest.mark.parametrize("estimator", FOUR_CLASSES, ids=str)
def test_a_classifier_of_four_classes_and_its_graph_agree(
    estimator: Any, turn: Turn, made_rows: pl.DataFrame, signal: np.ndarray
) -> None:
    target = np.searchsorted(np.quantile(signal, [0.25, 0.5, 0.75]), signal)
    turned = quiet(turn, estimator, made_rows, target, task="multiclass")
    assert turned.built.parity.worst <= 1.0
    answers = turned.answer(made_rows)
    assert answers.shape == (len(made_rows), 4)


@pytest.mark.parametrize("estimator", REGRESSORS, ids=str)
def test_a_regressor_and_its_graph_agree(
    estimator: Any, turn: Turn, made_rows: pl.DataFrame, signal: np.ndarray
) -> None:
    turned = quiet(turn, estimator, made_rows, signal * 100.0, task="regression")
    assert turned.built.parity.worst <= 1.0


@pytest.mark.parametrize("estimator", POSITIVE, ids=str)
def test_a_regressor_of_positive_numbers_and_its_graph_agree(
    estimator: Any, turn: Turn, made_rows: pl.DataFrame, signal: np.ndarray
) -> None:
    frame = made_rows.with_columns(pl.col("amount").log())
    turned = quiet(turn, estimator, frame, np.exp(signal / 3.0), task="regression")
    assert turned.built.parity.worst <= 1.0


@pytest.mark.parametrize("estimator", [Ridge(), LGBMRegressor(n_estimators=20), XGBRegressor(n_estimators=20)], ids=str)
def test_a_label_on_a_logarithmic_scale_is_answered_in_its_own_units(
    estimator: Any, turn: Turn, made_rows: pl.DataFrame, signal: np.ndarray
) -> None:
    frame = made_rows.with_columns(pl.col("amount").log())
    turned = quiet(turn, estimator, frame, np.exp(signal), task="regression", scale="log1p")
    assert np.corrcoef(np.log1p(turned.answer(frame)[:, 0]), signal)[0, 1] > 0.7


REFUSED = [
    (make_pipeline(SimpleImputer(add_indicator=True), LogisticRegression()), "add_indicator"),
    (make_pipeline(KNNImputer(), LogisticRegression()), "KNNImputer"),
    (make_pipeline(SplineTransformer(), LogisticRegression()), "SplineTransformer"),
    (KNeighborsClassifier(), "KNeighborsClassifier"),
    (LGBMClassifier(n_estimators=5, linear_tree=True), "linear_tree"),
    (XGBClassifier(n_estimators=5, booster="gblinear"), "gblinear"),
    (GradientBoostingClassifier(init=GaussianNB(), n_estimators=5), "init=GaussianNB"),
]


@pytest.mark.parametrize(("estimator", "named"), REFUSED, ids=lambda each: str(each))
def test_a_conversion_that_lies_is_refused_by_name(
    estimator: Any, named: str, turn: Turn, made_rows: pl.DataFrame, signal: np.ndarray
) -> None:
    with pytest.raises(ConversionRefused, match=named):
        quiet(turn, estimator, made_rows, (signal > np.median(signal)).astype(np.int64), task="binary")


def test_a_python_function_inside_a_pipeline_is_refused(made_rows: pl.DataFrame) -> None:
    from everloop.package import refused

    with pytest.raises(ConversionRefused, match=r"FunctionTransformer \(at functiontransformer\).*row\.x\.log"):
        refused.check(make_pipeline(FunctionTransformer(np.log1p), LogisticRegression()))
    refused.check(make_pipeline(FunctionTransformer(), LogisticRegression()))


UNSURE = [
    make_pipeline(QuantileTransformer(n_quantiles=50), LogisticRegression()),
    make_pipeline(PowerTransformer(), LogisticRegression()),
    make_pipeline(
        KBinsDiscretizer(encode="onehot-dense", quantile_method="averaged_inverted_cdf"), LogisticRegression()
    ),
    AdaBoostClassifier(n_estimators=10),
    scaled(QuadraticDiscriminantAnalysis(reg_param=0.1)),
    BernoulliNB(),
    scaled(CalibratedClassifierCV(SVC())),
]


@pytest.mark.parametrize("estimator", UNSURE, ids=str)
def test_what_a_converter_makes_is_right_or_refused(
    estimator: Any, turn: Turn, made_rows: pl.DataFrame, signal: np.ndarray, record_property: Any
) -> None:
    target = (signal > np.median(signal)).astype(np.int64)
    try:
        turned = quiet(turn, estimator, made_rows, target, task="binary")
    except (ConversionRefused, ParityError) as refusal:
        record_property("refused", str(refusal))
        return
    expected = turned.trainer(made_rows)
    assert np.allclose(turned.answer(made_rows), expected, rtol=1e-5, atol=1e-6)


def test_a_model_without_probabilities_is_told_how_to_get_them(
    turn: Turn, made_rows: pl.DataFrame, signal: np.ndarray
) -> None:
    with pytest.raises(TrainError, match="CalibratedClassifierCV"):
        quiet(turn, LinearSVC(), made_rows, (signal > np.median(signal)).astype(np.int64), task="binary")


def test_classes_that_the_training_rows_lack_get_probability_zero(
    turn: Turn, made_rows: pl.DataFrame, signal: np.ndarray
) -> None:
    target = np.searchsorted(np.quantile(signal, [0.3, 0.6]), signal) + 1
    turned = quiet(turn, LGBMClassifier(n_estimators=10), made_rows, target, task="multiclass", classes=5)
    answers = turned.answer(made_rows)
    assert answers.shape == (len(made_rows), 5)
    assert np.all(answers[:, [0, 4]] == 0.0)
