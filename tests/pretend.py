"""A device for machines without one: it computes on the CPU, and is as strict as a GPU.

Its tensors say that they lie on `pretend:0`. What mixes them with tensors or generators of the CPU is refused as
CUDA refuses it, and whatever would make the processor wait for a GPU is noted, with the line of the library that
asked for it:

    with watched() as notes:
        trainer.step()
    assert not notes
"""

import traceback
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch.utils import backend_registration
from torch.utils._pytree import tree_leaves, tree_map

NAME = "pretend"
_setup = getattr(backend_registration, "_setup_privateuseone_for_python_backend", None)
MISSING = None if _setup else f"torch {torch.__version__} lets no device be written in Python"


@dataclass(frozen=True)
class Note:
    "Something that a device does not do by itself."

    kind: str  # "wait": the processor needs a result; "copy": memory of the CPU is read; "noise": no seed of ours
    op: str
    where: str  # the innermost lines of the library, or the backward pass

    def __str__(self):
        return f"{self.kind}: {self.op} at {self.where}"


_notes: list[list[Note]] = []  # of each `watched` that is open
_generators: dict[int, "Generator"] = {}  # those of the device, which must not be collected


@contextmanager
def watched():
    "The list to which notes are added while inside."
    _notes.append([])
    try:
        yield _notes[-1]
    finally:
        _notes.pop()


def _note(kind, op):
    if not _notes:
        return
    stack = [f for f in traceback.extract_stack() if "/vcae_nb/" in f.filename or "/test_" in f.filename][::-1]
    lines = [f"{f.filename.rpartition('/')[2]}:{f.lineno} {f.name}" for f in stack[:3]]
    note = Note(kind, str(op).removeprefix("aten."), " < ".join(lines) or "the backward pass")
    for notes in _notes:
        notes.append(note)


class Pretended(torch.Tensor):
    "A tensor on the device; `cpu_tensor` has its numbers."

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, cpu_tensor):
        t = cpu_tensor
        facts = dict(strides=t.stride(), storage_offset=t.storage_offset(), dtype=t.dtype, layout=t.layout)
        self = torch.Tensor._make_wrapper_subclass(cls, t.size(), device=torch.device(NAME, 0), **facts)
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
    "A source of random numbers that says where it is, as a real one does."

    def __new__(cls, device="cpu"):
        device = torch.device(device)
        if device.type not in ("cpu", NAME):
            return torch._C.Generator(device)
        self = super().__new__(cls, "cpu")
        self.place = device
        if device.type == NAME:
            _generators[self._cdata] = self
        return self

    device = property(lambda self: self.place)


def _bare(x):
    return x.cpu_tensor if isinstance(x, Pretended) else x


def _is_ours(x):
    return isinstance(x, Pretended)


def _check(op, args, kwargs, on_device):
    "Refuse what CUDA refuses, and note what makes it wait."
    name, tensors = op.overloadpacket.__name__, [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    ours, others = any(map(_is_ours, tensors)), [x for x in tensors if not _is_ours(x) and x.ndim]
    indexed = name in ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index")
    if indexed and _is_ours(args[0]):
        indices = [x for x in tree_leaves(args[1]) if isinstance(x, torch.Tensor)]
        if any(x.dtype in (torch.bool, torch.uint8) for x in indices):
            _note("wait", op)
        if not all(map(_is_ours, indices)):
            _note("copy", op)
        others = [x for x in others if not any(x is i for i in indices)]
    if name == "copy_" and _is_ours(args[0]) != _is_ours(args[1]):
        _note("copy" if _is_ours(args[0]) else "wait", op)
    elif ours and others:
        raise RuntimeError(f"{op} mixes {NAME}:0 with {', '.join(f'{x.device} {tuple(x.shape)}' for x in others)}")
    if ours and not on_device or name.startswith("index_fill") and any(map(_is_ours, args[3:])):
        _note("wait", op)
    if not indexed and {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(op.tags):
        _note("wait", op)
    if torch.Tag.nondeterministic_seeded in op.tags and on_device:
        g = kwargs.get("generator")
        if g is None:
            _note("noise", op)
        elif g._cdata not in _generators:
            raise RuntimeError(f"Expected a {NAME!r} generator but found one of the CPU ({op})")


def _perform(op, *args, **kwargs):
    "Do it on the CPU, as the device would."
    on_device = kwargs.get("device") is None or torch.device(kwargs["device"]).type == NAME
    _check(op, args, kwargs, on_device)
    if "device" in kwargs:
        kwargs = kwargs | {"device": torch.device("cpu")}
    kwargs.pop("pin_memory", None)
    out = op(*tree_map(_bare, args), **tree_map(_bare, kwargs))
    known = {id(x.cpu_tensor): x for x in tree_leaves((args, kwargs)) if _is_ours(x)}
    if op.overloadpacket.__name__ == "copy_":
        return args[0]
    wrap = lambda x: known[id(x)] if id(x) in known else Pretended(x)
    return tree_map(lambda x: wrap(x) if isinstance(x, torch.Tensor) and on_device else x, out)


if not MISSING and not hasattr(torch, NAME):
    _setup(NAME)
    _library = torch.library.Library("_", "IMPL")
    _library.fallback(_perform, "PrivateUse1")
    _aten = torch.library.Library("aten", "IMPL")
    _aten.impl("copy_", partial(_perform, torch.ops.aten.copy_.default), "PrivateUse1")  # inside torch.tensor
    torch.Generator = Generator
