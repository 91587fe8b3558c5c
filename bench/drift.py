"""How often the drift monitor cries wolf on quiet data and how soon it finds a shift, through the code that runs live.

Run: python -m bench.drift [--years 20] [--quick] [--json]. Seeded: 30 columns, 10,000 rows a day, a champion trained on 60 days
before the first; the first 28 days run on formulas, then the loop's own quiet days set the limits. Beside it the naive
rules. "Habits": in half of the columns the mean follows the hour by up to .5 sd; "days": each column's mean has a
day effect, AR(.5), sd .02 to .10.
"""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import numpy as np
from bench.rows import Row, parser, show
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from everloop.measure import drift
from everloop.measure.calibration import Calibration
from everloop.measure.drift import Signal
from everloop.watch import history
from everloop.watch.history import History
from everloop.watch.windows import Window

Floats = NDArray[np.float64]
COLUMNS, BINS, A_DAY, TRAINED = 30, 10, 10_000, 60
NAMES = [f"c{index}" for index in range(COLUMNS)]
QUARTER = timedelta(days=90)
START = datetime(2024, 1, 1, tzinfo=UTC)
INNER = ndtri(np.arange(1, BINS) / BINS)


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
        below = ndtr(INNER - mean[..., None])
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
        trained = self.world.drawn(TRAINED).sum(axis=0)  # [windows, columns, bins]
        # With habits each window is held against training rows of its own hours, as the live code does.
        self.reference = trained if self.world.habits else np.broadcast_to(trained.sum(axis=0), trained.shape)
        self.reference_rows = int(self.reference[0, 0].sum())
        self.chance = drift.false_alarm_chance(QUARTER, self.world.windows, COLUMNS)

    def signals(self, slot: int, counts: Floats) -> tuple[Signal, ...]:
        found = psi(self.reference[slot], counts).tolist()
        rows, then = self.world.rows, self.reference_rows
        return tuple(
            Signal(column=name, kind="distribution", psi=each, bins=BINS, rows=rows, reference_rows=then)
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
    by_p: float
    by_value: float
    found: list[int]
    """Windows until +.6 sd in one column was found; 99: not within a dozen."""


def year(
    seed: int, rows: int, *, habits: bool, days: bool, restless: bool = False, length: int = 360, tried: int = 3
) -> Year:
    world = World(np.random.default_rng(seed), rows, habits, days, restless)
    monitor = Monitor(world)
    counts = world.drawn(length)
    # Every window is looked at, whatever the ones before it said.
    alarmed = [sum(bool(monitor.look(slot, each)) for slot, each in enumerate(day)) > 0 for day in counts]
    distances = psi(monitor.reference.sum(axis=0), counts)
    limit = drift.psi_threshold(0.05, BINS, rows, monitor.reference_rows)
    naive = [(distances > each).any(axis=(1, 2)).mean() * 90 for each in (limit, 0.2)]
    found = []
    for place in range(tried):
        # Each shift is met by the monitor as it stands at the end of the year.
        copy = replace(monitor)
        copy.reference, copy.chance = monitor.reference, monitor.chance
        copy.kept, copy.made, copy.before, copy.count = monitor.kept, monitor.made, monitor.before, monitor.count
        shift = np.zeros(COLUMNS)
        shift[place * 7 % COLUMNS] = 0.6
        after = world.drawn(max(1, -(-12 // world.windows)), shift).reshape(-1, COLUMNS, BINS)
        hits = [
            number
            for number, each in enumerate(after[:12], start=1)
            if NAMES[place * 7 % COLUMNS] in copy.look((number - 1) % world.windows, each)
        ]
        found.append(hits[0] if hits else 99)
    return Year(alarm_days=float(np.mean(alarmed) * 90), by_p=naive[0], by_value=naive[1], found=found)


def rows(*, years: int = 20, windows: tuple[int, ...] = (500, 1_000, 10_000)) -> list[Row]:
    made = []
    for size in windows:
        for habits, days, name in (
            (False, False, "independent rows"),
            (True, False, "habits"),
            (True, True, "habits and days"),
        ):
            seen = [year(seed, size, habits=habits, days=days) for seed in range(years)]
            alarms = np.array([each.alarm_days for each in seen])
            what = f"{size:,} rows a window, {name}"
            spread = f"{alarms.min():.2f} to {alarms.max():.2f}"
            made += [
                Row(
                    what=f"alarm days per 90 quiet ones, {what} (single years {spread})",
                    ours=float(alarms.mean()),
                    peer=float(np.mean([each.by_p if peer == "p < .05" else each.by_value for each in seen])),
                    peer_name=peer,
                    target=1.0,
                    unit="days",
                    rounds=years,
                )
                for peer in ("p < .05", "PSI > .2")
            ]
            needed = [number for each in seen for number in each.found]
            made.append(
                Row(
                    what=f"+.6 sd in one of 30 columns found, {what}, 95 % of shifts within",
                    ours=float(np.quantile(needed, 0.95, method="inverted_cdf")),
                    target=3,
                    unit="windows",
                    rounds=len(needed),
                )
            )
    return made


def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--years", type=int, default=None, help="simulated years of each kind (20; 4 with --quick)")
    arguments.add_argument("--windows", type=int, nargs="+", default=[500, 1_000, 10_000], help="rows a window")
    options = arguments.parse_args()
    years = options.years or (4 if options.quick else 20)
    show(rows(years=years, windows=tuple(options.windows)), as_json=options.json)


if __name__ == "__main__":
    main()
