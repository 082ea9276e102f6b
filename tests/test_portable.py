"With VCAE_PORTABLE one digest comes out of whatever else is set about the processor."

import os
import subprocess
import sys

SCRIPT = """
import sys, tempfile
from vcae_nb import FlowSpec, Spec, fit, fit_flow
from vcae_nb.core import sha256
for settings in (dict(dataset="mog", network="mlp", sigma=0.2), dict(dataset="reduced-mnist5k", width=1 / 64, sigma=0.2)):
    with tempfile.TemporaryDirectory() as root:
        run = fit(Spec(model="VCAE", z_dim=2, batch=50, steps=3, **settings), root=root, device="cpu")
        flow = fit_flow(run, FlowSpec(layers=2, hidden=(8,), steps=3), device="cpu")
        print(run.weights_sha256, sha256(*flow.state_dict().values()), run.manifest["machines"])
"""
MATRIX = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "AVX2"}
MATH = {"GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-AVX512F,-FMA,-FMA4"}  # as on an older processor


def test_one_digest():
    clean = {k: v for k, v in os.environ.items() if k not in MATRIX}
    made = []
    for more in ({}, *({name: value} for name, value in MATRIX.items()), MATRIX | MATH | {"OMP_NUM_THREADS": "2"}):
        done = subprocess.run([sys.executable, "-c", SCRIPT], env=clean | more | {"VCAE_PORTABLE": "1"}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        made.append(done.stdout)
    assert len(set(made)) == 1 and made[0].count("'MKL_CBWR': 'COMPATIBLE'") == 2, made


def test_too_late():
    done = subprocess.run([sys.executable, "-c", "import torch, vcae_nb"], env=os.environ | {"VCAE_PORTABLE": "1"}, capture_output=True, text=True)
    assert done.returncode == 1 and "imported before torch" in done.stderr
