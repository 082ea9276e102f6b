"""A device for machines without one: it computes on the CPU, and is as strict as a GPU.

Its tensors say that they lie on `pretend:0`. Mixing them with tensors or generators of the CPU is refused as CUDA
refuses it, and inside `watched` whatever would make the processor wait for a GPU is noted, with who asked for it.
"""

import traceback
from contextlib import contextmanager
from functools import partial

import torch
from torch.utils import backend_registration
from torch.utils._pytree import tree_leaves, tree_map

NAME = "pretend"
_setup = getattr(backend_registration, "_setup_privateuseone_for_python_backend", None)
MISSING = None if _setup else f"torch {torch.__version__} lets nobody write a device in Python"

_watching: list[list[str]] = []  # the notes of each `watched` that is open
_generators: dict[int, "Generator"] = {}  # those of the device, which must not be collected


@contextmanager
def watched():
    """The list to which notes are added while inside, each "kind: operation at where".

    "wait": the processor needs a result; "copy": the device reads the CPU's memory; "noise": no seed of ours.
    """
    _watching.append([])
    try:
        yield _watching[-1]
    finally:
        _watching.pop()


def _note(kind, op):
    frames = [f for f in traceback.extract_stack() if "/vcae_nb/" in f.filename][::-1] if _watching else []
    lines = [f"{f.filename.rpartition('/')[2]}:{f.lineno} {f.name}" for f in frames[:3]]
    for notes in _watching:
        notes.append(f"{kind}: {str(op).removeprefix('aten.')} at {' < '.join(lines) or 'the backward pass'}")


class Pretended(torch.Tensor):
    "A tensor on the device; `cpu_tensor` has its numbers."

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, t):
        like = dict(strides=t.stride(), storage_offset=t.storage_offset(), dtype=t.dtype, layout=t.layout)
        self = torch.Tensor._make_wrapper_subclass(cls, t.size(), device=torch.device(NAME, 0), **like)
        self.cpu_tensor = t
        return self

    def __repr__(self):
        return f"Pretended({self.cpu_tensor!r})"

    def tolist(self):
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, op, types, args=(), kwargs=None):
        return _perform(op, *args, **kwargs or {})


class Generator(torch.Generator):
    "A source of random numbers that knows where it is."

    def __new__(cls, device="cpu"):
        place = torch.device(device)
        if place.type not in ("cpu", NAME):
            return torch._C.Generator(place)
        self = super().__new__(cls, "cpu")
        self.place = place
        if place.type == NAME:
            _generators[self._cdata] = self
        return self

    device = property(lambda self: self.place)


_ours = lambda x: isinstance(x, Pretended)
_tensors = lambda x: [t for t in tree_leaves(x) if isinstance(t, torch.Tensor)]
_bare = partial(tree_map, lambda t: t.cpu_tensor if _ours(t) else t)
ASKING = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}  # the processor needs the numbers
CHECKED = ("_linalg_check_errors", "_linalg_eigh", "_linalg_svd")  # it asks whether they worked
INDEXED = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index")


def _judge(op, args, kwargs, on_device):
    "Refuse what CUDA refuses, and note what makes it wait."
    name, tensors = op.overloadpacket.__name__, _tensors((args, kwargs))
    strays = [t for t in tensors if not _ours(t) and t.ndim]
    if name in INDEXED and _ours(args[0]):
        indices = _tensors(args[1])
        if any(t.dtype in (torch.bool, torch.uint8) for t in indices):
            _note("wait", op)  # how many there are
        if not all(map(_ours, indices)):
            _note("copy", op)  # CUDA takes indices of the CPU, and brings them over
        strays = [t for t in strays if not any(t is i for i in indices)]
    if name == "copy_" and _ours(args[0]) != _ours(args[1]):
        _note("copy" if _ours(args[0]) else "wait", op)
    elif strays and len(strays) < len(tensors):
        raise RuntimeError(f"{op} mixes {NAME}:0 with {[(str(t.device), tuple(t.shape)) for t in strays]}")
    asked = name in CHECKED or name not in INDEXED and ASKING & set(op.tags)
    filled = name.startswith("index_fill") and any(map(_ours, args[3:]))  # with the value of a tensor
    if asked or filled or tensors and not on_device:
        _note("wait", op)
    if torch.Tag.nondeterministic_seeded in op.tags and on_device:
        if kwargs.get("generator") is None:
            _note("noise", op)
        elif kwargs["generator"]._cdata not in _generators:
            raise RuntimeError(f"{op} on {NAME}:0 with a generator of the CPU")


def _perform(op, *args, **kwargs):
    "Do it on the CPU, as the device would."
    on_device = torch.device(kwargs.get("device") or NAME).type == NAME
    _judge(op, args, kwargs, on_device)
    if "device" in kwargs:
        kwargs |= {"device": torch.device("cpu"), "pin_memory": None}
    out = op(*_bare(args), **_bare(kwargs))
    if op.overloadpacket.__name__ == "copy_":
        return args[0]
    known = {id(t.cpu_tensor): t for t in _tensors((args, kwargs)) if _ours(t)}  # changed in place
    wrap = lambda x: known[id(x)] if id(x) in known else Pretended(x)
    return tree_map(lambda x: wrap(x) if on_device and isinstance(x, torch.Tensor) else x, out)


def _in_bf16(op, *args):
    "Under autocast: inputs and weights in bf16, as on other devices."
    key = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)
    half = [x.bfloat16() if isinstance(x, torch.Tensor) else x for x in args]
    with torch._C._ExcludeDispatchKeyGuard(key):
        return op(*half)


class Backend(backend_registration._DummyBackendModule if _setup else object):
    get_amp_supported_dtype = staticmethod(lambda: [torch.bfloat16])


if _setup and not hasattr(torch, NAME):
    _setup(NAME, Backend())
    _all, _aten, _ops = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL"), torch.ops.aten
    _all.fallback(_perform, "PrivateUse1")
    _all.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    _aten.impl("copy_", partial(_perform, _ops.copy_.default), "PrivateUse1")  # for torch.tensor
    for _op in (_ops.linear.default, _ops.conv2d.default, _ops.conv_transpose2d.input):
        _aten.impl(_op.name().removeprefix("aten::"), partial(_in_bf16, _op), "AutocastPrivateUse1")
    torch.Generator = Generator
