"""One loop in the server: its requests, its outcomes, its log. Knows nothing of sockets or of other loops."""

import asyncio
import time
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any

import msgspec

from everloop.errors import RequestError, StoreError, StoreFull
from everloop.measure import truth
from everloop.serve import v2, v2_body
from everloop.serve.exchange import Exchange
from everloop.serve.follow import Follower
from everloop.serve.heads import Headers
from everloop.serve.instants import reader as instant_reader
from everloop.serve.live import Answer, Live
from everloop.serve.loading import Allowance
from everloop.serve.log import OutcomeLog, PredictionLog
from everloop.serve.models import Models
from everloop.serve.parked import Cause, Parked
from everloop.serve.predictor import Form, PredictionJob, Predictor, many, one
from everloop.serve.replay import Channel
from everloop.serve.rows import Integer
from everloop.serve.traffic import overridden
from everloop.serve.urgency import prefer
from everloop.store.home import Home
from everloop.store.segments import OutcomeFrame

if TYPE_CHECKING:
    from everloop.serve.sketches import Sketcher

REQUEST_OUTCOMES = 50_000
ID_LENGTH = 512
OCTETS = b"application/octet-stream"
SETTLING_SECONDS = 0.0005
_read_instant = instant_reader(None)


class SentOutcome(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    id: str
    value: Integer | str | float | bool | None
    name: str | None = None
    at: Integer | str | None = None


_decode_outcomes: Callable[[bytes], SentOutcome | list[SentOutcome]] = msgspec.json.Decoder(
    SentOutcome | list[SentOutcome]
).decode


class Resting(RequestError):
    """The loop is being loaded: whoever can wait does, `Service.parked`, and asks again."""

    def __init__(self, service: "Service") -> None:
        super().__init__(
            f"Loop {service.name} is being loaded; ask again.", status=503, reason="loading", retry_after=1
        )
        self.service = service


LOADING = Cause(
    now="The model is being loaded",
    at_deadline="The model was still being loaded at the deadline.",
    reason="loading",
    requests=1000,
)


class Service:
    """``name`` is the loop's; ``follower`` knows what is released, ``predictor`` what is live."""

    def __init__(
        self, home: Home, name: str, loop: asyncio.AbstractEventLoop, channel: Channel, random: Random, tag: str,
        allowance: Allowance, processes: int = 1, models: Models | None = None,
    ) -> None:  # fmt: skip
        self.name = name
        self.home = home
        self._tag = tag
        self.channel = channel
        self.log = PredictionLog(home.segments(name), f"{tag}-p")
        self.outcome_log = OutcomeLog(home.segments(name), f"{tag}-o")
        self.sketcher: Sketcher | None = None
        """Once a release has asked for sketches instead of the log."""
        self.predictor = Predictor(loop, self.log, random)
        self.follower = Follower(home, name, self._switch, allowance=allowance, processes=processes, models=models)
        self.parked = Parked(LOADING)
        """Requests that wait until the loop is in memory again."""
        self.unloaded = False
        """It was unloaded by request, and is loaded by request only."""
        self.wanted: Callable[[], None] = lambda: None
        """Is called when somebody asks for a loop that rests."""
        self.outcomes_taken = 0
        self.outcomes_refused = 0
        self.may_override: Callable[[Any], bool] = lambda caller: False
        """Whether a caller (None: nobody was asked for a key) may name the version that answers."""
        self._loop = loop

    def _switch(self, live: Live | None) -> None:
        if self.sketcher is None and live is not None and any(arm.held is not None for arm in live.arms):
            from everloop.serve.sketches import Sketcher  # the follower has loaded it already

            self.sketcher = Sketcher(self.home.sketches(self.name), self._tag)
            self.predictor.sketch = self.sketcher.add
        self.predictor.live = live

    @property
    def ready(self) -> bool:
        """Whether a request is answered, if need be after the loop was loaded again."""
        return self.predictor.live is not None or self.rests

    @property
    def rests(self) -> bool:
        """It is not in memory, or is being loaded again, and will be there for whoever asks."""
        follower = self.follower
        return (follower.resting or follower.waking) and not self.unloaded and bool(follower.packages)

    def live(self) -> Live:
        """Raises RequestError (503) while no version is live, Resting while it is not in memory."""
        live = self.predictor.live
        if live is None:
            if self.unloaded:
                raise RequestError(
                    f"Loop {self.name} was unloaded; load it with POST /v2/repository/models/{self.name}/load.",
                    status=503,
                    reason="unloaded",
                )
            if self.rests:
                self.wanted()
                raise Resting(self)
            because = self.follower.problem or "no version has been released yet"
            raise RequestError(f"Loop {self.name} has nothing live: {because}", status=503)
        return live

    # Requests

    def predict(self, exchange: Exchange, headers: Headers, body: bytes) -> None:
        live = self.predictor.live or self.live()
        if exchange.plain:
            rows, several = live.reader.read(body)
            ids = None if live.reader.nameless and not several else self.predictor.ids_for(live, rows, None)
            self.predictor.submit(PredictionJob(exchange, live, rows, ids, None, many if several else one))
            return
        at: list[int] | None = None
        given: str | None = None
        if headers:
            if b"x-everloop-version" in headers:
                live = self._overridden(live, exchange, headers)
            given = _given_id(headers)
            if self.channel.asked(headers):
                moment = self.channel.event_time(headers)
                if moment is None:
                    rows, at = live.reader.read_timed(body)
                    self._submit(exchange, live, rows, True, at, None)
                    return
                rows, several = live.reader.read(body)
                self._submit(exchange, live, rows, several, [moment] * len(rows), given)
                return
        rows, several = live.reader.read(body)
        self._submit(exchange, live, rows, several, at, given)

    def _overridden(self, live: Live, exchange: Exchange, headers: Headers) -> Live:
        """The version that a tester names. Raises RequestError (403, 404)."""
        self._check_override(exchange, "The header x-everloop-version")
        return overridden(live, headers[b"x-everloop-version"].decode("latin-1").strip())

    def _check_override(self, exchange: Exchange, what: str) -> None:
        """Raises RequestError (403) unless the caller may say which version answers."""
        if not self.may_override(exchange.caller):
            raise RequestError(
                f"{what} is for testers; this server takes it on loopback, or with a key that may operate. Leave it out.",
                status=403,
                reason="override",
            )

    def _submit(
        self, exchange: Exchange, live: Live, rows: list[Any], several: bool, at: list[int] | None, given: str | None
    ) -> None:
        predictor = self.predictor
        ids = predictor.ids_for(live, rows, given)
        predictor.submit(PredictionJob(exchange, live, rows, ids, at, many if several else one))

    def infer(self, exchange: Exchange, headers: Headers, body: bytes, version: int | None = None) -> None:
        """The Open Inference Protocol V2 over HTTP; ``version`` is asked for by the path."""
        live = self.live()
        request = v2_body.decode(body, headers.get(v2_body.HEADER))

        def form(answers: list[Answer], job: PredictionJob) -> bytes:
            written, head = v2_body.encode(self.name, live, request, answers)
            if head is not None:
                exchange.kind = OCTETS
                exchange.lines += b"inference-header-content-length: %d\r\n" % head
            return written

        self.ask(exchange, headers, live, request, form, version)

    def ask(
        self,
        exchange: Exchange,
        headers: Headers,
        live: Live,
        request: v2.Request,
        form: Form,
        version: int | None = None,
    ) -> None:
        """Answer a request of the Open Inference Protocol V2, however it came. Raises RequestError."""
        group = live if version is None else live.pinned(version)
        if version is not None and version != live.champion.version:
            self._check_override(exchange, f"Version {version} is not the champion; to ask for another")
        if b"x-everloop-version" in headers:
            group = self._overridden(live, exchange, headers)
        if request.parameters:
            priority, seconds = v2.urgency(request.parameters)
            if priority is not None:
                prefer(exchange, priority)
            if seconds is not None:
                exchange.deadline = min(exchange.deadline, exchange.arrived + seconds)
        rows = v2.rows(request, live)
        moment = self.channel.event_time(headers) if self.channel.asked(headers) else None
        at = None if moment is None else [moment] * len(rows)
        ids = self.predictor.ids_for(live, rows, _given_id(headers) or request.id or None)
        self.predictor.submit(PredictionJob(exchange, group, rows, ids, at, form))

    def outcomes(self, exchange: Exchange, headers: Headers, body: bytes) -> None:
        """Acknowledged when they are on disk."""
        moment = self.channel.event_time(headers) if self.channel.asked(headers) else None
        try:
            found = _decode_outcomes(body)
        except (ValueError, RecursionError) as error:
            raise RequestError(
                f'This is not an outcome: {error}. Send {{"id": …, "value": …}} with "name" and "at" if you like, '
                "or an array of them."
            ) from None
        sent = found if isinstance(found, list) else [found]
        if len(sent) > REQUEST_OUTCOMES:
            raise RequestError(f"{len(sent)} outcomes in one request; send at most {REQUEST_OUTCOMES}.", status=413)
        release = self.follower.release
        label = release.label if release is not None else "label"
        now = time.time_ns() // 1000 if moment is None else moment
        outcomes = [_outcome(each, label, now) for each in sent]
        live = self.predictor.live
        declared = release if live is None else live.champion.model.signature  # who rests knows what the release says
        if declared is not None and declared.task is not None:
            for id_, name, value, _ in outcomes:
                unfit = truth.unfit(value, declared.task, declared.classes) if name == label else None
                if unfit is not None:
                    raise RequestError(f"The outcome of {id_!r} is {value!r}, which is no {label}; {unfit}.")
        if not outcomes:
            exchange.finish(200, b'{"outcomes":0}')
            return

        def acknowledge(error: StoreError | None) -> None:
            self._loop.call_soon_threadsafe(self._acknowledged, exchange, len(outcomes), error)

        self.outcome_log.add(OutcomeFrame(loop=self.name, outcomes=outcomes), acknowledge)

    def _acknowledged(self, exchange: Exchange, count: int, error: StoreError | None) -> None:
        if error is None:
            self.outcomes_taken += count
            exchange.finish(200, b'{"outcomes":%d}' % count)
        else:
            self.outcomes_refused += count
            exchange.refuse(507 if isinstance(error, StoreFull) else 500, str(error))

    def settled(self, exchange: Exchange, headers: Headers, body: bytes) -> None:
        """On the replay channel: answered when all that was asked before is in the log, shadow answers too.

        So a look at the log sees the same in every replay, however fast the machine is.
        """
        if not self.channel.asked(headers):
            raise RequestError("Only a replay waits here; send x-everloop-replay with its token.", status=403)
        self.channel.event_time(headers)  # refuses a wrong token
        if not self.predictor.idle:
            self._loop.call_later(SETTLING_SECONDS, self.settled, exchange, headers, body)
            return
        try:
            self.log.flush()
            if self.sketcher is not None:
                self.sketcher.flush()
        except StoreError as error:
            exchange.refuse(507 if isinstance(error, StoreFull) else 500, str(error))
        else:
            exchange.finish(200, b'{"settled":true}')

    # What is told about it

    @property
    def state(self) -> str:
        """live, resting (loaded when somebody asks), loading, unloaded (by request) or none."""
        if self.predictor.live is not None:
            return "live"
        if self.unloaded:
            return "unloaded"
        return "loading" if self.follower.loading else "resting" if self.rests else "none"

    def status(self) -> dict[str, Any]:
        release, writer, sketcher = self.follower.release, self.log.writer, self.sketcher
        return {
            "ready": self.ready,
            "state": self.state,
            "model_bytes": self.follower.models.bytes_of(self.name),
            "revision": self.follower.revision,
            "stage": release.stage if release else "empty",
            "champion": release.champion if release else None,
            "challenger": release.challenger if release else None,
            "former": release.former if release else None,
            "share": release.share if release else 0.0,
            "epoch": release.epoch if release else 0,
            "experiment": release.experiment if release else None,
            "route": release.route if release else None,
            "problem": self.follower.problem,
            "refused": self.follower.refusals,
            "errors": self.predictor.errors,
            "waiting_rows": self.predictor.batcher.waiting,
            "waiting_seconds": round(self.predictor.batcher.waiting_seconds, 3),
            "cost": self._cost(),
            "shadow_waiting_rows": self.predictor.batcher.deferred,
            "shadow_skipped_rows": self.predictor.shadow_skipped,
            "log": {
                "written_rows": writer.written_rows,
                "lost_rows": writer.lost_rows,
                "trouble": str(writer.trouble) if writer.trouble else None,
            },
            "sketches": None
            if sketcher is None
            else {
                "rows": sketcher.rows,
                "lost_rows": sketcher.lost_rows,
                "trouble": str(sketcher.trouble) if sketcher.trouble else None,
            },
            "outcomes": {
                "taken": self.outcomes_taken,
                "refused": self.outcomes_refused,
                "trouble": str(self.outcome_log.writer.trouble) if self.outcome_log.writer.trouble else None,
            },
        }

    def _cost(self) -> dict[str, float] | None:
        """What the champion's runs cost, and how much longer a batch takes than the graph."""
        if self.predictor.live is None:
            return None
        cost = self.predictor.live.cost
        return {
            "overhead_ms": round(cost.overhead * 1e3, 4),
            "row_ms": round(cost.each * 1e3, 5),
            "best_rows": cost.best,
            "stretch": round(self.predictor.batcher.queue.stretch, 2),
        }

    def close(self) -> None:
        """Write the logs to their end. Call when nothing is in flight."""
        self.predictor.note_recalled()
        self.predictor.batcher.close()
        self.log.close()
        if self.sketcher is not None:
            self.sketcher.close()
        self.outcome_log.close()


def _given_id(headers: Headers) -> str | None:
    value = headers.get(b"x-prediction-id")
    if value is None:
        return None
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise RequestError("The header x-prediction-id is not UTF-8.") from None
    if not text or len(text) > ID_LENGTH:
        raise RequestError(f"The header x-prediction-id has {len(text)} characters; send between 1 and {ID_LENGTH}.")
    return text


def _outcome(sent: SentOutcome, label: str, now: int) -> tuple[str, str, str | int | float | bool | None, int]:
    if not sent.id:
        raise RequestError("An outcome has an empty id; send the id of its prediction.")
    at = now if sent.at is None else sent.at
    if isinstance(at, str):
        try:
            at = _read_instant(at)
        except ValueError as error:
            raise RequestError(f"The outcome of {sent.id!r} is at {at!r}; expected {error}.") from None
    return sent.id, sent.name or label, sent.value, at
