"""Variance Constrained Autoencoding: `from vcae_nb import Spec, fit, FlowSpec, fit_flow, sample`."""

import os
import sys
from importlib import import_module

__version__ = "0.1.0"
_WHERE = {
    "Spec": "method.models",
    "MODELS": "method.models",
    "Row": "method.models",
    "NETWORKS": "method.networks",
    "fit": "method.runs",
    "find_run": "method.runs",
    "remarks": "method.runs",
    "export": "method.export",
    "FlowSpec": "method.flows",
    "fit_flow": "method.flows",
    "sample": "method.flows",
    "interpolate": "method.flows",
    "class_densities": "method.densities",
    "Dataset": "data.resident",
    "dataset_of": "data.datasets",
    "load_dataset": "data.datasets",
    "VcaeError": "core",
}
__all__ = list(_WHERE)

if os.environ.get("VCAE_PORTABLE"):  # see nbs/301_core.ipynb
    if "torch" in sys.modules and os.environ.get("MKL_CBWR") != "COMPATIBLE":
        raise ImportError("VCAE_PORTABLE needs vcae_nb to be imported before torch")
    os.environ |= {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "OMP_NUM_THREADS": "1"}
    for _name in ("ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS"):
        os.environ.pop(_name, None)


def __getattr__(name):
    "Each name is imported when it is first used, so that `import vcae_nb` is quick."
    if name not in _WHERE:
        raise AttributeError(f"module 'vcae_nb' has no attribute {name!r}")
    found = getattr(import_module(f"vcae_nb.{_WHERE[name]}"), name)
    if _WHERE[name] == "method.runs":
        import_module("vcae_nb.method.export")  # which gives runs their `export` and `card`
    return found


def __dir__():
    return sorted([*globals(), *__all__])
