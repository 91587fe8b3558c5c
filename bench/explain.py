"""What it costs to explain one prediction: a boosted model's own contributions beside shap, a network's beside its graph.

Run: python -m bench.explain [--quick] [--json]

Made rows, 10 columns, 200 trees of 31 leaves. Ours is what `everloop why ID --explain` runs: LightGBM reading its own text
and adding up its contributions (TreeSHAP in C++). The peer is shap's TreeExplainer over the same model, in a fresh process
each, imports included and without; both must say the same. Of networks `bench.explain_networks` tells how far gradients and the served graph agree. A whole run keeps its figures in results/explain.json.
"""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
from bench.rows import Row, parser, show
from lightgbm import LGBMClassifier

from bench import explain_networks

RESULTS = Path(__file__).parent / "results" / "explain.json"
WIDTH, ROWS = 10, 20_000
OURS = """
import sys, time
begun = time.process_time()
import numpy as np, lightgbm
from everloop.train.contributions import LIGHTGBM, contributions
imported = time.process_time()
row = np.load(sys.argv[2])
said = contributions(LIGHTGBM, open(sys.argv[1], "rb").read(), row)[0, 0]
print(imported - begun, time.process_time() - imported, *said)
"""
PEER = """
import sys, time
begun = time.process_time()
import numpy as np, lightgbm, shap
imported = time.process_time()
row = np.load(sys.argv[2])
explainer = shap.TreeExplainer(lightgbm.Booster(model_file=sys.argv[1]))
said = np.asarray(explainer.shap_values(row)).reshape(-1)
print(imported - begun, time.process_time() - imported, *said, float(np.ravel(explainer.expected_value)[-1]))
"""


def measured(code: str, model: Path, row: Path) -> tuple[float, float, list[float]]:
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(model), str(row)], capture_output=True, text=True, check=True
    )
    imports, explaining, *said = (float(each) for each in ended.stdout.split())
    return imports, explaining, said


def main() -> None:
    given = parser(__doc__ or "").parse_args()
    rounds = 2 if given.quick else 9
    random = np.random.default_rng(0)
    matrix = random.normal(size=(ROWS, WIDTH))
    target = (matrix[:, 0] * matrix[:, 1] + np.sin(3 * matrix[:, 2]) + random.normal(size=ROWS) > 0).astype(int)
    fitted = LGBMClassifier(n_estimators=200, verbosity=-1, n_jobs=1).fit(matrix, target)
    with tempfile.TemporaryDirectory() as name:
        model, row = Path(name) / "model.txt", Path(name) / "row.npy"
        model.write_text(fitted.booster_.model_to_string())
        np.save(row, matrix[:1])
        ours = [measured(OURS, model, row) for _ in range(rounds)]
        peer = [measured(PEER, model, row) for _ in range(rounds)]
    apart = max(abs(a - b) for a, b in zip(ours[0][2], peer[0][2], strict=True))
    rows = [
        Row(
            what="one boosted prediction, CPU", ours=1000 * median(each[1] for each in ours), unit="ms", rounds=rounds,
            peer=1000 * median(each[1] for each in peer), peer_name="shap",
        ),
        Row(
            what="imports before it, CPU", ours=1000 * median(each[0] for each in ours), unit="ms", rounds=rounds,
            peer=1000 * median(each[0] for each in peer), peer_name="shap",
        ),
        Row(what="largest difference from shap", ours=apart, unit="log odds", rounds=1, target=1e-6),
        *explain_networks.rows(quick=given.quick),
    ]  # fmt: skip
    show(rows, as_json=given.json)
    if not given.quick:
        versions = {
            each: importlib.metadata.version(each) for each in ("everloop", "lightgbm", "shap", "torch", "captum")
        }
        machine = {"cores": len(os.sched_getaffinity(0)), "python": platform.python_version(), **versions}
        RESULTS.write_text(json.dumps({"machine": machine, "rows": [each.to_json() for each in rows]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
