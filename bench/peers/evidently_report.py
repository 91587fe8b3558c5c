"""Evidently's drift report of two tables, timed where Evidently is installed: prints CPU seconds as JSON.

Run: python evidently_report.py REFERENCE.csv CURRENT.csv default|ks|psi ROUNDS
"""

import json
import sys
import time

import pandas as pd
from evidently import Report
from evidently.presets import DataDriftPreset


def main(reference: str, current: str, method: str, rounds: str) -> None:
    then, now = pd.read_csv(reference), pd.read_csv(current)
    chosen = {"default": {}, "ks": {"num_method": "ks", "cat_method": "chisquare"}}.get(
        method, {"num_method": method, "cat_method": method}
    )
    spent = []
    for _ in range(int(rounds)):
        begun = time.process_time()
        Report([DataDriftPreset(**chosen)]).run(now, then)
        spent.append(time.process_time() - begun)
    print(json.dumps(min(spent)))


if __name__ == "__main__":
    main(*sys.argv[1:])
