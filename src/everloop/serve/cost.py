"""What a run costs: s(b) = o + a·b seconds for b rows, and how many rows go best together. Knows nothing of models.

The line is a least-squares fit through the mean time of each size (powers of two) that was run, at load and since. It
decides whether a batch runs where it is or in the worker thread, and when it will be done.

Which size is best is not on the line: graphs that multiply matrices get slower again when a batch leaves the cache.
So now and then, when enough rows wait anyway, half and twice the present size are run beside it and compared.
"""

LARGEST = 4096
SIZES = LARGEST.bit_length()
REMEMBERED = 20
"""Runs that the mean of one size looks back on."""
EARLY_RUNS = 64
"""So many runs are each followed by a fit; later every eighth is."""
FIRST_SECONDS, LONGEST_FIRST_SECONDS = 0.025, 0.1
FIRST_ROWS = 16
FIRST_RATE = 0.8
"""The first guess at the best size: what takes so long; more where so much of the greatest rate would not be reached;
but no fewer rows than these."""
FIRST_LOOK_RUNS = 16
SHORT_SECONDS = 0.010
"""Batches are not made smaller than what takes so long: there is nothing to win."""
LOOKS = 5
"""Runs of each size before they are compared."""
GAIN = 1.07
"""What twice as many rows must be faster by, a row, before batches grow: larger ones answer later."""
LOSS = 1.03
"""What half as many may be slower by."""
LOOK_RUNS = 64
LONGEST_LOOK_RUNS = 4096
"""Runs until the next comparison; twice as many each time that nothing changed."""


def place_of(rows: int) -> int:
    """The power of two nearest to ``rows`` as its exponent, capped.

    >>> [place_of(rows) for rows in (1, 2, 3, 6, 11, 12, 4096, 100_000)]
    [0, 1, 2, 3, 3, 4, 12, 12]
    """
    return min((rows * 4 // 3).bit_length() - 1, SIZES - 1)


class CostLine:
    """``overhead`` is o and ``each`` is a, both seconds, never negative; ``best`` is the largest batch worth making."""

    __slots__ = ("_counts", "_look_at", "_looked", "_pause", "_rows", "_runs", "_seconds", "best", "each", "overhead")

    def __init__(self) -> None:
        self.overhead = 0.0
        self.each = 0.0
        self.best = LARGEST
        self._counts = [0.0] * SIZES
        self._rows = [0.0] * SIZES
        self._seconds = [0.0] * SIZES
        self._runs = 0
        self._looked: dict[int, list[float]] = {}
        """Seconds a row by size, of the comparison under way."""
        self._pause = LOOK_RUNS
        self._look_at = FIRST_LOOK_RUNS

    def observe(self, rows: int, seconds: float) -> None:
        """Take in that ``rows`` took ``seconds``."""
        place = place_of(rows)
        count = self._counts[place]
        if count < REMEMBERED:
            self._counts[place] = count = count + 1.0
        self._rows[place] += (rows - self._rows[place]) / count
        self._seconds[place] += (seconds - self._seconds[place]) / count
        self._runs += 1
        if self._runs < EARLY_RUNS or not self._runs & 7:
            self._fit()
        if self._looked and place in self._looked:
            self._looked[place].append(seconds / rows)

    def _fit(self) -> None:
        # Relative errors count, so that a run of one row says as much as a run of thousands.
        n = b = t = bb = bt = 0.0
        for place, count in enumerate(self._counts):
            if not count:
                continue
            rows, seconds = self._rows[place], max(self._seconds[place], 1e-9)
            weight = count / seconds**2
            n += weight
            b += weight * rows
            t += weight * seconds
            bb += weight * rows * rows
            bt += weight * rows * seconds
            self._counts[place] = max(1.0, count * 0.98)  # a size that is not seen for long says less, never nothing
        spread = n * bb - b * b
        each = (n * bt - b * t) / spread if spread > 1e-9 * n * bb else 0.0
        overhead = (t - each * b) / n
        if each <= 0.0 or overhead < 0.0:  # one size so far, or a line that no run could have
            each, overhead = bt / bb, 0.0
        self.each, self.overhead = each, overhead

    def predict(self, rows: int) -> float:
        """Seconds that a run of ``rows`` will take."""
        return self.overhead + self.each * rows

    def guess(self) -> None:
        """Set ``best`` from the line: called once, when the graph has been warmed."""
        each = max(self.each, 1e-9)
        rows = (FIRST_SECONDS - self.overhead) / each
        wanted = min(FIRST_RATE / (1 - FIRST_RATE) * self.overhead, LONGEST_FIRST_SECONDS - self.overhead) / each
        self.best = min(max(1 << max(int(rows), int(wanted), 1).bit_length() - 1, FIRST_ROWS), LARGEST)

    def size(self, waiting: int) -> int:
        """The most rows to take of so many that wait: ``best``, or now and then half or twice of it, to compare."""
        if waiting < self.best or self._runs < self._look_at:
            return self.best
        best = self.best
        sizes = [best]
        if best > 1 and self.predict(best) > SHORT_SECONDS:
            sizes.append(best // 2)
        if best * 2 <= min(waiting, LARGEST):
            sizes.append(best * 2)
        if len(sizes) == 1:
            return best
        looked = self._looked
        wanted = min(sizes, key=lambda size: len(looked.setdefault(place_of(size), [])))
        if len(looked[place_of(wanted)]) < LOOKS:
            return wanted
        self._choose({size: _median(looked[place_of(size)]) for size in sizes})
        return self.best

    def _choose(self, each: dict[int, float]) -> None:
        best = self.best
        double, half = each.get(best * 2), each.get(best // 2)
        if double is not None and double * GAIN < each[best]:
            self.best = best * 2
        elif half is not None and half < each[best] * LOSS:
            self.best = best // 2
        self._pause = LOOK_RUNS if self.best != best else min(self._pause * 2, LONGEST_LOOK_RUNS)
        self._look_at = self._runs + (0 if self.best != best else self._pause)
        self._looked = {}


def _median(values: list[float]) -> float:
    """The upper one of two. The module statistics takes 3 ms of a start."""
    return sorted(values)[len(values) // 2]
