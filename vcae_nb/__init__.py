"""Variance Constrained Autoencoding: `from vcae_nb import Spec, fit, FlowSpec, fit_flow, sample`."""

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
