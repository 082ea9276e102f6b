"The benchmarks run; what they would measure is not looked at here."

import json
import subprocess
import sys

from vcae_nb.core import project_root

BENCHMARKS = project_root() / "benchmarks"


def test_every_part_measures_something(tmp_path):
    out = tmp_path / "benchmark.json"
    done = subprocess.run([sys.executable, BENCHMARKS / "run.py", "--quick", "--out", out], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    measured = {m["part"] for m in result["measures"] if "skipped" not in m}
    assert measured == {"training", "memory", "batches", "score", "frechet", "flow", "start", "growth"}
    assert result["quick"] and all(s > 0 for m in result["measures"] for s in m.get("seconds", []))
    assert {m["what"] for m in result["measures"] if "skipped" in m} <= {"fit, bf16", "pythae", "zuko"}
