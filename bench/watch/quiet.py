"""How often the drift monitor cries wolf on quiet data and how soon it finds a shift, through the code that runs live.

Seeded: 30 columns, 10,000 rows a day, a champion trained on 60 days before the first: those days set the limits at first,
the loop's own quiet days more and more. Beside it the naive rules. "Habits": in half of the columns
the mean follows the hour by up to .5 sd; "days": each column's mean has a day effect, AR(.5), sd .02 to .10; a
restless world's is .05 to .30. A part of the figures: python -m bench.watch quiet; alone with its own years and
windows: python -m bench.watch.quiet [--years 20] [--windows 1000] [--quick] [--json].
"""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial

import numpy as np
from bench.rows import Row, parser, show
from bench.watch.parts import Part
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from everloop.measure import drift, habit
from everloop.measure.calibration import Calibration
from everloop.measure.comparison import LEAST_PER_BIN
from everloop.measure.drift import CALIBRATION_DAYS, Signal
from everloop.watch import history
from everloop.watch.history import History
from everloop.watch.windows import LEAST_ROWS, Window

Floats = NDArray[np.float64]
COLUMNS, BINS, A_DAY, TRAINED = 30, 10, 10_000, 60
PROCESSES = 4
LENGTH, EARLY, MOST, NEVER = 360, 13, 12, 99
NAMES = [f"c{index}" for index in range(COLUMNS)]
QUARTER = timedelta(days=90)
START = datetime(2024, 1, 1, tzinfo=UTC)


@dataclass
class World:
    """Counts of each window in the bins of each column."""

    random: np.random.Generator
    rows: int
    habits: bool
    days: bool
    restless: bool = False

    def __post_init__(self) -> None:
        self.windows = max(1, A_DAY // self.rows)
        self.bins = max(2, min(BINS, self.rows // LEAST_PER_BIN))  # as the live code puts bins together
        self.inner = ndtri(np.arange(1, self.bins) / self.bins)
        least, most = (0.05, 0.30) if self.restless else (0.02, 0.10)
        self.spread = self.random.uniform(least, most, COLUMNS) if self.days else np.zeros(COLUMNS)
        size = np.where(np.arange(COLUMNS) % 2 == 0, self.random.uniform(0, 0.5, COLUMNS), 0.0) * self.habits
        phase = (np.arange(self.windows) + 0.5) / self.windows * 2 * np.pi
        self.cycle = np.sin(phase)[:, None] * size  # a window of a whole day holds the whole cycle
        if self.windows == 1:
            self.cycle = np.zeros((1, COLUMNS))
        self.effect = self.random.normal(0, 1, COLUMNS) * self.spread

    def drawn(self, days: int, shift: Floats | float = 0.0) -> Floats:
        """Counts [days, windows, columns, bins]."""
        effects = np.empty((days, COLUMNS))
        for day in range(days):
            self.effect = 0.5 * self.effect + np.sqrt(0.75) * self.random.normal(0, 1, COLUMNS) * self.spread
            effects[day] = self.effect
        mean = effects[:, None, :] + self.cycle[None] + shift
        below = ndtr(self.inner - mean[..., None])
        ends = np.zeros((*mean.shape, 1))
        chances = np.diff(np.concatenate([ends, below, ends + 1], axis=-1), axis=-1)
        return self.random.multinomial(self.rows, chances).astype(np.float64)


def psi(then: Floats, now: Floats) -> Floats:
    p, q = (each + 0.5 for each in (then, now))
    p, q = p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)
    found: Floats = np.sum((q - p) * np.log(q / p), axis=-1)
    return found


@dataclass
class Monitor:
    """The live code: history, calibration, two windows running. Only PSI is made elsewhere."""

    world: World
    kept: History = field(default_factory=History)
    made: Calibration | None = None
    before: tuple[Signal, ...] = ()
    count: int = 0

    def __post_init__(self) -> None:
        days = self.world.drawn(TRAINED)  # [days, windows, columns, bins]
        trained = days.sum(axis=0)
        # With habits each window is held against training rows of its own hours, as the live code does.
        self.reference = trained if self.world.habits else np.broadcast_to(trained.sum(axis=0), trained.shape)
        self.reference_rows = int(self.reference[0, 0].sum())
        of_days = days.sum(axis=1)
        means, peaks = habit.drawn(
            {name: of_days[:, place] for place, name in enumerate(NAMES)},
            rows=self.world.rows,
            a_day=self.world.windows,
        )
        before = [START - (TRAINED - day) * timedelta(days=1) for day in range(TRAINED)]
        self.kept = history.begun(self.kept, NAMES, means, peaks, before)
        self.made = history.calibrated(self.kept, false_alarm_every=QUARTER)
        self.chance = drift.false_alarm_chance(QUARTER, self.world.windows, COLUMNS)

    def signals(self, slot: int, counts: Floats) -> tuple[Signal, ...]:
        found = psi(self.reference[slot], counts).tolist()
        rows, then = self.world.rows, self.reference_rows
        return tuple(
            Signal(column=name, kind="distribution", psi=each, bins=self.world.bins, rows=rows, reference_rows=then)
            for name, each in zip(NAMES, found, strict=True)
        )

    def look(self, slot: int, counts: Floats) -> tuple[str, ...]:
        now = self.signals(slot, counts)
        if self.made is None:
            now = history.allowed(self.kept, now)
        alarms: tuple[str, ...] = ()
        if self.before and max(each.psi for each in now) > drift.FLOOR:  # no limit is lower
            alarms = tuple(each.column for each in drift.in_both(self.before, now, self.chance, self.made))
        length = timedelta(days=1) / self.world.windows
        window = Window(since=START + self.count * length, until=START + (self.count + 1) * length)
        days = len(self.kept.days)
        self.kept = history.added(self.kept, window, now, self.before, alarmed=bool(alarms), false_alarm_every=QUARTER)
        if len(self.kept.days) != days:
            self.made = history.calibrated(self.kept, false_alarm_every=QUARTER)
        self.before, self.count = now, self.count + 1
        return alarms


@dataclass
class Year:
    alarm_days: float
    """Per 90 days."""
    first: float
    """Alarm days among the first 28."""
    by_p: float
    by_value: float
    found: list[int]
    """Windows until +.6 sd in one column was found; `NEVER`: not within a dozen."""
    found_early: int
    """The same on the fourteenth day, when the loop's own days are few."""
    tried: list[float]
    """How restless those columns were: sd of their day effects, that of the early one last."""


def year(
    seed: int, rows: int, *, habits: bool, days: bool, restless: bool = False, length: int = LENGTH, tried: int = 3
) -> Year:
    world = World(np.random.default_rng(seed), rows, habits, days, restless)
    monitor = Monitor(world)
    counts = world.drawn(length)
    alarmed, found_early = [], NEVER
    for day, here in enumerate(counts):
        # Every window is looked at, whatever the ones before it said.
        alarmed.append(sum(bool(monitor.look(slot, each)) for slot, each in enumerate(here)) > 0)
        if day == EARLY:
            found_early = shifted(monitor, seed % COLUMNS)
    columns = [place * 7 % COLUMNS for place in range(tried)]
    distances = psi(monitor.reference.sum(axis=0), counts)
    limit = drift.psi_threshold(0.05, world.bins, rows, monitor.reference_rows)
    naive = [(distances > each).any(axis=(1, 2)).mean() * 90 for each in (limit, 0.2)]
    return Year(
        alarm_days=float(np.mean(alarmed) * 90),
        first=float(np.sum(alarmed[:CALIBRATION_DAYS])),
        by_p=naive[0],
        by_value=naive[1],
        found=[shifted(monitor, each) for each in columns],
        found_early=found_early,
        tried=world.spread[[*columns, seed % COLUMNS]].tolist(),
    )


def shifted(monitor: Monitor, column: int) -> int:
    """Windows until the monitor, as it stands, finds +.6 sd in a column; what it learns of it is forgotten."""
    copy, world = replace(monitor), monitor.world
    copy.reference, copy.chance = monitor.reference, monitor.chance
    copy.kept, copy.made, copy.before, copy.count = monitor.kept, monitor.made, monitor.before, monitor.count
    shift = np.zeros(COLUMNS)
    shift[column] = 0.6
    after = world.drawn(max(1, -(-MOST // world.windows)), shift).reshape(-1, COLUMNS, world.bins)
    for number, each in enumerate(after[:MOST], start=1):
        if NAMES[column] in copy.look((number - 1) % world.windows, each):
            return number
    return NEVER


SURE = float(ndtri(1 - 1 / (2 * 90 * COLUMNS)) + ndtri(0.95))
"""Standard deviations between what one quiet day and column in 90 × 30 reaches, on either side, and what is found 95 times in 100."""


def mood(windows_a_day: int) -> float:
    """How much three windows running tell of a day's effect that is known to be 1: the sd of what is left of it.

    Windows of one day share its effect, however many rows they have. Three days that follow one another, AR(.5), have
    1/√((3 − .5)/1.5) of it at best.
    """
    return 1.0 if windows_a_day >= 3 else float(np.sqrt(1.5 / 2.5))


def findable(windows_a_day: int) -> float:
    """The largest sd of a column's day effects at which +.6 sd can be found within three windows 95 times in 100, by any
    rule that keeps the budget and judges those windows by themselves. Arithmetic: the rows' own noise is left out.
    """
    return 0.6 / (SURE * mood(windows_a_day))


KINDS = (
    (False, False, False, "independent rows"),
    (True, False, False, "habits"),
    (True, True, False, "habits and days"),
    (True, True, True, "habits and restless days"),
)


def rows(*, years: int = 20, windows: tuple[int, ...] = (500, 1_000, 10_000), restless: bool = True) -> list[Row]:
    made = []
    with ProcessPoolExecutor(PROCESSES) as pool:
        for size in windows:
            made += _of_size(pool, size, years, restless=restless)
    return made


def _of_size(pool: ProcessPoolExecutor, size: int, years: int, *, restless: bool) -> list[Row]:
    made = []
    for habits, days, wild, name in KINDS[: 4 if restless else 3]:
        asked = partial(year, rows=size, habits=habits, days=days, restless=wild, tried=9 if wild else 3)
        seen = list(pool.map(asked, range(years)))
        what = f"{size:,} rows a window, {name}"
        made += [*_quiet(seen, what, size), *_found(seen, what, size, wild=wild)]
    return [*made, *(_possible(size) if restless else [])]


def _quiet(seen: list[Year], what: str, size: int) -> list[Row]:
    years, promised = len(seen), size >= LEAST_ROWS
    alarms = np.array([each.alarm_days for each in seen])
    spread = f"{alarms.min():.2f} to {alarms.max():.2f}"
    error = alarms.std(ddof=1) / np.sqrt(years) if years > 1 else np.nan
    made = [
        Row(
            what=f"alarm days per 90 quiet ones, {what} (± {error:.2f}; single years {spread})",
            ours=float(alarms.mean()),
            peer=float(np.mean([each.by_p if peer == "p < .05" else each.by_value for each in seen])),
            peer_name=peer,
            target=1.0 if promised else None,
            unit="days",
            rounds=years,
        )
        for peer in ("p < .05", "PSI > .2")
    ]
    early = np.array([each.first for each in seen])
    # Of a budget of one day in 90, 28 days have .31; so few days of 40 years are known to about ± .1.
    made.append(
        Row(
            what=f"alarm days among the first 28, {what} (single years {early.min():.0f} to {early.max():.0f})",
            ours=float(early.mean()),
            target=CALIBRATION_DAYS / 90 if promised else None,
            unit="days",
            rounds=years,
        )
    )
    later = float(np.mean([each.alarm_days * LENGTH / 90 - each.first for each in seen]))
    made.append(
        Row(
            what=f"alarm days per 90 after the first 28, {what}",
            ours=later * 90 / (LENGTH - CALIBRATION_DAYS),
            target=1.0 if promised else None,
            unit="days",
            rounds=years,
        )
    )
    return made


def _found(seen: list[Year], what: str, size: int, *, wild: bool) -> list[Row]:
    most = findable(max(1, A_DAY // size))
    kinds = [
        ([pair for each in seen for pair in zip(each.found, each.tried[:-1], strict=True)], "found"),
        ([(each.found_early, each.tried[-1]) for each in seen], "found on day 14"),
    ]
    made = []
    for needed, when in kinds:
        chosen = [("in one of 30 columns", needed)]
        if wild:
            chosen.insert(
                0, (f"where it can be (day effects up to {most:.3f} sd)", [n for n in needed if n[1] <= most])
            )
        for place, (where, some) in enumerate(chosen):
            if not some:
                continue
            windows = [number for number, _ in some]
            within = float(np.mean(np.array(windows) <= 3))
            made.append(
                Row(
                    what=f"+.6 sd {where} {when}, {what}, 95 % of shifts within ({within:.0%} within three)",
                    ours=float(np.quantile(windows, 0.95, method="inverted_cdf")),
                    target=3 if size >= LEAST_ROWS and when == "found" and place == 0 else None,
                    unit="windows",
                    rounds=len(windows),
                )
            )
    return made


def _possible(size: int) -> list[Row]:
    """What no rule can do better: arithmetic, beside which the simulation stands."""
    windows = max(1, A_DAY // size)
    return [
        Row(
            what=f"smallest shift that any rule can find within three windows of {size:,} rows, day effects of {sd:.2f} sd",
            ours=SURE * mood(windows) * sd,
            unit="sd",
            rounds=1,
        )
        for sd in (0.05, 0.10, 0.20, 0.30)
    ]


def part(*, quick: bool = False) -> Part:
    made = rows(years=2 if quick else 40)
    made += rows(years=1 if quick else 4, windows=(100,), restless=False)
    notes = [
        "A year is 360 days with an alarm budget of one alarm day in 90, shared by all columns and windows. `PSI > .2` and "
        "`p < .05` (of PSI, each column by itself) are the naive rules on the same rows. 99 windows: not found within a dozen.",
        "**100 rows a window: nothing is promised.** The live monitor takes no window of fewer than 300 rows and waits for "
        "more; these rows are what it would do if it did not. Three bins are left, a fixed PSI of .2 is in the noise, and on "
        "some days a shift of .6 sd can pass unseen (99).",
        "**A restless world** (days that differ by .05 to .30 sd). All rows of a day share its mood, so thousands of them are "
        "one draw: with an sd of s, what one quiet day and column of 90 × 30 reaches (3.56 s) and what a shift is found by 95 "
        "times in 100 (1.64 s more) lie 5.2 s apart. So +.6 sd can be found within three windows of one day where s is at "
        "most .115, by whatever rule; within three days, whose mean varies less, up to .149. The rows `where it can be` are of such "
        "columns. Beyond, only a larger shift can be found: `smallest shift`.",
    ]
    return Part(rows=made, notes=notes)


def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--years", type=int, default=None, help="simulated years of each kind (20; 4 with --quick)")
    arguments.add_argument("--windows", type=int, nargs="+", default=[500, 1_000, 10_000], help="rows a window")
    options = arguments.parse_args()
    years = options.years or (4 if options.quick else 20)
    show(rows(years=years, windows=tuple(options.windows), restless=False), as_json=options.json)


if __name__ == "__main__":
    main()
