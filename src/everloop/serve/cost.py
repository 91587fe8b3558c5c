"""What a run costs: s(b) = o + a·b seconds for b rows. Knows nothing of models or time.

Least squares over what was measured at load and over recent runs, old ones fading. It decides whether a batch runs
where it is (under a millisecond) or in the worker thread.
"""

FADING = 0.98
"""Weight that a measurement keeps with each new one: about the last fifty count."""


class CostLine:
    """Refitted with every run; ``overhead`` is o and ``each`` is a, both seconds, never negative."""

    __slots__ = ("_b", "_bb", "_bt", "_n", "_t", "each", "overhead")

    def __init__(self) -> None:
        self._n = self._b = self._t = self._bb = self._bt = 0.0
        self.overhead = 0.0
        self.each = 0.0

    def observe(self, rows: int, seconds: float) -> None:
        """Take in that ``rows`` took ``seconds``."""
        # Relative errors count, so that a run of one row says as much as a run of thousands.
        weight = 1.0 / max(seconds, 1e-9) ** 2
        self._n = self._n * FADING + weight
        self._b = self._b * FADING + weight * rows
        self._t = self._t * FADING + weight * seconds
        self._bb = self._bb * FADING + weight * rows * rows
        self._bt = self._bt * FADING + weight * rows * seconds
        spread = self._n * self._bb - self._b * self._b
        if spread > 1e-9 * self._n * self._bb:
            self.each = max(0.0, (self._n * self._bt - self._b * self._t) / spread)
            self.overhead = max(0.0, (self._t - self.each * self._b) / self._n)
        else:  # always the same number of rows so far
            self.each = self._t / self._b
            self.overhead = 0.0

    def predict(self, rows: int) -> float:
        """Seconds that a run of ``rows`` will take."""
        return self.overhead + self.each * rows
