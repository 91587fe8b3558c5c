"""The nouns that travel between rooms, as frozen values. Knows nothing of where they are kept or who makes them.

Every record is JSON through `encode` and `decode`; instants are aware and in UTC.
"""

import hashlib
import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Literal, TypeVar

import msgspec

from everloop.forms import Image, TermTable, TokenTable

ColumnType = Literal["number", "integer", "boolean", "text", "instant", "bytes"]
"""number: float64. integer: int64. instant: int64 microseconds since 1970 in UTC. bytes: of a file, for example an image.
Each may be missing."""

FeatureType = Literal["number", "integer", "boolean", "text", "instant", "bytes", "terms", "tokens", "image"]
"""What a feature may be: a value, or more than one (`everloop.forms`)."""

Task = Literal["binary", "multiclass", "regression"]
Stage = Literal["empty", "steady", "shadow", "canary"]
Arm = Literal["champion", "challenger"]

MISSING_INTEGER = -(2**63)
"""How a missing integer, boolean or instant stands in an int64 array (numpy's NaT). Numbers use NaN."""
MISSING_TEXT = "\x00"
"""How a missing text stands in an array of strings; a client that sends it is refused."""

LOOP_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
"""It stands in paths, file names and metric labels: nothing else may."""

T = TypeVar("T")


def _encode_extra(value: Any) -> Any:
    if isinstance(value, set | frozenset):
        return sorted(value)
    if hasattr(value, "item"):  # a numpy scalar
        return value.item()
    raise TypeError(f"{type(value).__name__} {value!r} has no JSON form")


def encode(record: Any) -> bytes:
    """Canonical JSON: keys sorted, no spaces, so that equal records have equal bytes."""
    return msgspec.json.encode(record, enc_hook=_encode_extra, order="sorted")


def decode(data: bytes | str, kind: type[T]) -> T:
    return msgspec.json.decode(data, type=kind)


def digest_of(data: bytes) -> str:
    """SHA-256 as 64 hexadecimal digits: the name of everything that is named by its content."""
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """A named fact behind a decision: small, JSON, readable by a person."""

    name: str
    value: Any
    limit: Any = None
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One file of rows as it was taken in. ``digest`` is of its content: the same content twice is one batch."""

    loop: str
    digest: str
    path: str
    at: datetime
    rows: int
    added: int = 0
    copies: int = 0
    outcomes: int = 0
    quarantined: int = 0
    raw_version: int = -1
    """The version of the raw table after this batch."""
    refused: str | None = None
    """Why the whole batch was refused, if it was."""
    reasons: dict[str, int] = field(default_factory=dict)
    """Why rows were quarantined → how many."""
    new_columns: tuple[str, ...] = ()
    """Columns that no batch before had."""
    absent_columns: tuple[str, ...] = ()
    """Columns that batches before had and this one lacks: missing in its rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Exactly which rows a fit sees: the same rows for ever. Instants bound ``event_time``: from ≤ t < to."""

    digest: str
    loop: str
    as_of: datetime
    raw_version: int
    outcomes_version: int
    train_from: datetime
    test_from: datetime
    to: datetime
    train_rows: int
    test_rows: int
    unlabelled_rows: int = 0
    """Rows of the window that are left out because their label is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Category:
    """A learned table for one text feature. Missing and unseen each have a place of their own."""

    values: tuple[str, ...]
    """Known values, most frequent first; the code of a value is its position."""
    one_hot: bool
    """False: one column of codes (known 0…K-1, missing K, unseen K+1). True: K+2 columns of 0 and 1 in that order."""
    rare: tuple[str, ...] = ()
    """Values seen in training but too rarely: with ``one_hot`` they share the unseen place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """(number − ``centre``) × ``factor``, held between −`WIDEST` and `WIDEST`. Calculated in float64."""

    centre: float
    factor: float

    WIDEST: ClassVar[float] = 10.0
    """Standard deviations: a number that is farther out would drive a network to where it has learned nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureEncoding:
    """How one feature becomes estimator columns: by a table where there is one, else as a number (NaN where missing)."""

    name: str
    type: FeatureType
    category: Category | None = None
    fill: float | None = None
    """For estimators that refuse NaN: what a missing number becomes. None: NaN stays."""
    terms: TermTable | None = None
    scaling: Scaling | None = None
    """For networks: numbers around 0, each about as wide as the next."""
    indicator: bool = False
    """For networks: one more column, 1 where the number is missing. All of these stand behind all others."""
    image: Image | None = None
    tokens: TokenTable | None = None

    @property
    def width(self) -> int:
        """How many columns of the matrix it is."""
        if self.terms is not None:
            return len(self.terms.values)
        if self.image is not None:
            return self.image.channels * self.image.height * self.image.width
        return (
            len(self.category.values) + 2 if self.category is not None and self.category.one_hot else 1 + self.indicator
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """How the features become the estimator's matrix [rows, width], values rounded to float32."""

    features: tuple[FeatureEncoding, ...]
    network: bool = False
    """A network sees the matrix as its tensor ``columns``, beside others under names of their own."""

    @property
    def width(self) -> int:
        return sum(each.width for each in self.features)

    @property
    def flat(self) -> "Encoding":
        """The features that become columns of the matrix: for a network not those that are tensors of their own."""
        if not self.network:
            return self
        own = tuple(each for each in self.features if each.image is None and each.tokens is None)
        return Encoding(features=own, network=True)

    @property
    def sparse(self) -> bool:
        """Whether most of the matrix is 0, so that it is kept by rows of what is not (scipy's CSR)."""
        return any(each.terms is not None for each in self.features)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the matrix columns, for importances and for a person."""
        names: list[str] = []
        for each in self.features:
            if each.category and each.category.one_hot:
                names += [f"{each.name}={value}" for value in each.category.values]
                names += [f"{each.name} missing", f"{each.name} unseen"]
            elif each.terms is not None:
                names += [f"{each.name}: {value}" for value in each.terms.values]
            elif each.image is not None:
                names += [f"{each.name} pixel {place}" for place in range(each.width)]
            else:
                names.append(each.name)
        return (*names, *(f"{each.name} missing" for each in self.features if each.indicator))


@dataclass(frozen=True, slots=True, kw_only=True)
class InputColumn:
    """A raw column that the graph takes. ``index`` is its place in the packed input of its kind."""

    name: str
    type: ColumnType
    index: int
    time_zone: str | None = None
    """For an instant: the zone that naive text is read in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorColumn:
    """A column that is a whole array in each row: an image, token ids. A request must bring it; it is never missing."""

    name: str
    datatype: str
    """As the Open Inference Protocol V2 names it: FP64, FP32, FP16, INT8 … INT64, UINT8 … UINT64, BOOL."""
    shape: tuple[int, ...]
    """Of one row, for example (3, 64, 64)."""
    image: Image | None = None
    """A request brings the bytes of a PNG or JPEG file, and the server makes the array of them: UINT8 [height, width,
    channels]."""
    probe: tuple[int, ...] = ()
    """What the trainer's decoder made of a known image (`everloop.measure.images.probed`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What a graph takes and gives.

    Graph inputs (each only if it has columns): ``numbers`` float64 [rows, n], NaN missing; ``integers`` int64
    [rows, n] for integers, booleans and instants, `MISSING_INTEGER` missing; ``texts`` string [rows, n],
    `MISSING_TEXT` missing; and one input [rows, *shape] for each of ``tensors``, named as the column.
    Graph outputs: ``prediction`` float64 [rows, classes] probabilities, or [rows, 1] for regression; and for
    classification ``decision`` int64 [rows], the index into ``classes``.
    """

    inputs: tuple[InputColumn, ...]
    task: Task
    classes: tuple[bool | int | float | str, ...] = ()
    positive: int | None = None
    """Binary: the index of the positive class."""
    key: tuple[str, ...] = ()
    event_time: str | None = None
    carried: tuple[InputColumn, ...] = ()
    """Columns a request may bring besides ``inputs`` (of the key, the event time, the unit): read and typed, not given
    to the graph; their ``index`` is −1. One that is named above but not here is taken as any JSON scalar."""
    tensors: tuple[TensorColumn, ...] = ()

    def of(self, *types: ColumnType) -> tuple[InputColumn, ...]:
        return tuple(c for c in self.inputs if c.type in types)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the gate found. ``because`` is one sentence with the figures."""

    outcome: Literal["better", "not_worse", "unsure", "worse", "first", "ungated"]
    promote: bool
    because: str
    evidence: tuple[Evidence, ...] = ()
    more_labels: int | None = None
    """Unsure: about how many more labels would settle it if the two are equal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A fitted and exported model before it is signed. ``digest`` names snapshot + code + parameters."""

    digest: str
    loop: str
    snapshot: str
    code: str
    """Digest of the declaration's meaning and of the source that defines user functions."""
    estimator: str
    parameters: dict[str, Any]
    seed: int
    folder: str
    """Where graph.onnx, profile.json and test.parquet lie."""
    signature: Signature
    score: float
    """On the snapshot's test rows, in the declared score."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Where the time went: read, features, search, fit, export, parity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A package under its number in its loop. Numbers rise by one and are never used again."""

    loop: str
    number: int
    package: str
    snapshot: str
    created_at: datetime
    score: float
    verdict: Verdict
    trigger: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentArm:
    """A named part of the traffic and the version that answers it. ``share``: in (0, 1); all arms' shares are 1."""

    name: str
    version: int
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """An A/B test as it was started. It never changes: other shares or arms are another experiment.

    ``salt`` and the arms' shares are all that it takes to know the arm of an id (`everloop.serve.arms.assign`).
    """

    loop: str
    name: str
    arms: tuple[ExperimentArm, ...]
    salt: str
    unit: str | None = None
    """The column whose value decides; None: the prediction's id."""
    sticky: Literal["hour", "always"] = "always"
    started: datetime
    stopped: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteArm:
    name: str
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Who answers is decided by what is asked: by a small model's decision, by the first arm's confidence, or by meaning.

    With ``weights`` an arm is drawn by the weights that it has in the query's class (`everloop.spec.serve.Meaning`), and
    ``by_package`` is whose clusters are meant, if any are. With ``by`` the arms are named as the decisions of that loop's package. With ``threshold`` (a cascade) they are
    asked in their order: the first one that is confident enough answers, and the last one always.
    """

    arms: tuple[RouteArm, ...]
    by: str | None = None
    """The loop whose package decides."""
    by_version: int | None = None
    by_package: str | None = None
    threshold: float | None = None
    weights: dict[str, tuple[float, ...]] | None = None
    """By meaning: class → the weight of each arm, in their order; "" stands for every class that is not named."""
    started: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Who serves what, now. ``revision`` rises by one with each change and is what compare-and-swap compares."""

    loop: str
    revision: int = 0
    stage: Stage = "empty"
    champion: int | None = None
    challenger: int | None = None
    share: float = 0.0
    """The challenger's share of live traffic: 0 in shadow."""
    epoch: int = 0
    """Rises whenever the share or a participant changes; counts are kept per epoch."""
    started: datetime | None = None
    """When this challenger began (shadow or canary)."""
    since: datetime | None = None
    """When the present stage and share began."""
    previous: int | None = None
    """The champion before this one: where a rollback by command goes."""
    former: int | None = None
    """The champion before this one while it goes on answering in shadow, so that what the release gained can be seen."""
    former_until: datetime | None = None
    paused: bool = False
    paused_at: datetime | None = None
    paused_seconds: float = 0.0
    """How long this release has been paused before: the time counts for no limit."""
    experiment: str | None = None
    """The experiment that divides the traffic now; only while there is no challenger."""
    route: Route | None = None
    """The rule that chooses the version by what is asked; only while there is no challenger and no experiment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One thing that was decided, with its reason, kept for ever."""

    loop: str
    at: datetime
    action: str
    because: str
    evidence: tuple[Evidence, ...] = ()
    version: int | None = None
    revision: int | None = None
    run: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One episode of a rule that was broken: from when it began to fire until it was quiet for long enough."""

    loop: str
    fingerprint: str
    """Of loop and rule: the same for each episode."""
    rule: str
    level: str
    severity: str
    began: datetime
    seen: datetime
    """When it last held."""
    because: str
    value: float | None = None
    limit: float | None = None
    ended: datetime | None = None
    """None while it fires."""
    told: Literal["firing", "resolved"] | None = None
    """What receivers were last told."""
    told_at: datetime | None = None
    messages: int = 0
    settled: bool = False
    """It has ended, and there is nothing more to tell of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """Nobody is told of the rule (None: of any) until then. What fires is kept all the same."""

    loop: str
    id: str
    rule: str | None
    since: datetime
    until: datetime
    because: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertMessage:
    """What receivers are told. ``key`` is the same however often it is sent: whoever has seen it may drop it."""

    key: str
    loop: str
    kind: Literal["firing", "repeated", "resolved", "summary"]
    at: datetime
    until: datetime
    """Who hears nothing more by then may take it for over."""
    alerts: tuple[Alert, ...]
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came true. ``id`` is the prediction's id or the row's key joined by '|'. Late and corrected is normal."""

    id: str
    name: str
    value: str | int | float | bool | None
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmCounts:
    """Four counts of one guard in one share epoch: enough for every rule (statistics: counts form)."""

    share: float
    challenger_events: float
    challenger_units: float
    champion_events: float
    champion_units: float
    log_worse: tuple[float, ...] = ()
    """Of outcomes between the limits that are not 0 or 1: what each bet has won, which the counts do not tell."""
    log_not_worse: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardEvidence:
    """One guard's counts, one entry per share epoch, and the champion rate frozen before the canary."""

    guard: str
    baseline: float
    margin: float
    epochs: tuple[ArmCounts, ...]
    only_challenger_failed: int = 0
    """In shadow, of the same rows: on so many the challenger alone failed, on so many the champion alone."""
    only_champion_failed: int = 0
    scale: tuple[float, float] = (0.0, 1.0)
    """Of an outcome: which of its values are no event at all and a whole one. Rates and margins here are of events."""
    variance: float | None = None
    """Of the events in the champion's requests before, frozen with the rate; None: they are 0 or 1."""
    counted: str = ""
    """What its shares are of, in words, where ``guard`` alone would read as a value."""
    silent: str = ""
    """In words, that nothing is reported of what is guarded: such a guard is never shown not worse."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedCounts:
    """Paired shadow answers on the same rows, once labels are known.

    ``differences`` are loss(challenger) − loss(champion) summed up: pairs, sum and sum of squares; for 0/1 losses
    ``only_challenger_wrong`` and ``only_champion_wrong`` are the discordant counts.
    """

    pairs: int
    total: float
    squares: float
    only_challenger_wrong: int = 0
    only_champion_wrong: int = 0
    bounded: bool = False
    """True when every difference lies in [-1, 1] (0/1 loss, Brier)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseEvidence:
    """All that the judge looks at: additive over replicas and time."""

    guards: tuple[GuardEvidence, ...] = ()
    shadow: PairedCounts | None = None
    shadow_margin: float | None = None
    requests: int = 0
    """Challenger requests in all epochs of this release."""
