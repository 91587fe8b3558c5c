"""How many requests the servers of a home were asked and refused lately, from the counts that they keep. Judges nothing.

Counts begin anew with a server: what came before the first look at one is not lately, and is left out.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from everloop.serve.counts import of_servers
from everloop.serve.families import Families
from everloop.spec.alert import REASONS
from everloop.store.home import Home

MOST_LOOKS = 2_000
ASKED = ""
"""Where all requests are counted, beside those refused for each reason."""
Counted = dict[int, dict[str, float]]
"""Of each server, by reason."""


@dataclass(slots=True)
class Refusals:
    _looks: deque[tuple[datetime, Counted]] = field(default_factory=lambda: deque(maxlen=MOST_LOOKS))

    def look(self, home: Home, now: datetime) -> None:
        self._looks.append((now, {server: _counted(each) for server, each in of_servers(home).items()}))

    def within(self, span: timedelta, now: datetime) -> tuple[int, dict[str, int]]:
        """Requests asked since so long ago, or since the first look; and those refused, by reason."""
        if not self._looks:
            return 0, {}
        before = [each for each in self._looks if now - each[0] >= span]
        then, latest = (before or self._looks)[-1 if before else 0][1], self._looks[-1][1]
        found: Counter[str] = Counter()
        for server, counts in latest.items():
            known = then.get(server)
            if known is None:
                known = next((counted[server] for _, counted in self._looks if server in counted), counts)
            for reason, count in counts.items():
                found[reason] += round(max(0.0, count - known.get(reason, 0.0)))
        asked = found.pop(ASKED, 0)
        return asked, {reason: count for reason, count in found.items() if count}


def _counted(families: Families) -> dict[str, float]:
    found: dict[str, float] = {}
    for (code, reason), count in families.totals("everloop_refused_total", "code", "reason").items():
        if code in ("429", "503") and reason in REASONS:
            found[reason] = found.get(reason, 0.0) + count
    answered = families.totals("everloop_request_seconds", "variant")
    return {**found, ASKED: sum(found.values()) + sum(answered.values())}
