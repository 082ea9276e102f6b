__version__ = "0.1.0"
__all__ = ["Spec", "fit"]


def __getattr__(name):
    "`Spec` and `fit`, imported when they are first used, so that `import vcae_nb` is quick."
    if name == "Spec":
        from vcae_nb.method.models import Spec as found
    elif name == "fit":
        from vcae_nb.method.training import fit as found
    else:
        raise AttributeError(f"module 'vcae_nb' has no attribute {name!r}")
    return found
