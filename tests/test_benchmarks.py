"The benchmarks run; what they would measure is not looked at here."

import json
import subprocess
import sys

import pretend
import pytest
import torch

from vcae_nb.core import project_root

BENCHMARKS = project_root() / "benchmarks"


def run(name, out, *options):
    "The result of a benchmark with `--quick`, in a process of its own."
    command = [sys.executable, BENCHMARKS / name, "--quick", "--out", out, *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(out.read_text())


def test_every_part_measures_something(tmp_path):
    result = run("run.py", tmp_path / "benchmark.json")
    measured = {m["part"] for m in result["measures"] if "skipped" not in m}
    assert measured == {"training", "memory", "batches", "score", "frechet", "flow", "start", "growth"}
    assert result["quick"] and all(s > 0 for m in result["measures"] for s in m.get("seconds", []))
    assert {m["what"] for m in result["measures"] if "skipped" in m} <= {"fit, bf16", "pythae", "zuko"}


def test_the_checks_for_a_gpu_run_on_a_cpu(tmp_path):
    everything = ("switches", "float32", "as_the_cpu", "outputs", "deterministic", "waiting", "graph", "memory")
    result = run("gpu_checks.py", tmp_path / "checks.json", "--device", "cpu", "--only", *everything)
    held = [c["check"] for c in result["checks"] if c.get("holds")]
    assert held == ["switches", "float32", "as_the_cpu", "outputs", "deterministic"]
    assert [c["check"] for c in result["checks"] if "skipped" in c] == ["waiting", "graph", "memory"]


@pytest.mark.skipif(bool(pretend.MISSING), reason=str(pretend.MISSING))
def test_they_run_on_the_pretended_device(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu_checks

    names = ("switches", "float32", "as_the_cpu", "outputs", "deterministic")
    for record in gpu_checks.run_checks(torch.device(pretend.NAME), quick=True, names=names):
        assert record.get("holds"), record


def test_the_comparison_of_precisions_runs(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu_checks

    _, found = gpu_checks.bf16_quality(torch.device("cpu"), quick=True)
    assert len(found) == 6 and all(low <= high for low, high in found.values())
