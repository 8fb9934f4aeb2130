"""A GPU that is not there: real numbers in the processor's memory, and a rule which of them a GPU would hold.

Invariants:
- Within ``with Accelerator():`` a tensor is on ``cuda:0`` if it was moved or made there, or computed from what is; it says
  so (``device``, ``is_cuda``), and so do its views. Its values are what the processor computes.
- What CUDA refuses is refused, with its words: to compute with tensors of both places, to draw for the GPU with a generator
  of the processor, to give a GPU's memory to numpy. What CUDA takes is taken: numbers (tensors without dimension) and
  indices of the processor's.

Whether memory is on the GPU is kept by storage. Operations are seen where PyTorch hands them to a backend (a dispatch
mode); what names a device in Python is seen before that (a function mode), because a PyTorch without CUDA would refuse it
there. What happens below, in PyTorch's own C++, takes the tensors for the processor's: so kernels are the processor's, and
the choice among them. Not stood in for: streams, a generator of the GPU's own, running out of its memory, its rounding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self
from unittest import mock

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sandbox.worker import devices

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
MEMORY_BYTES = 1 << 30
_MIXED = "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"
_GENERATOR = "Expected a 'cuda' device type for generator but found 'cpu'"
_NUMPY = "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first."
_INDEXING = ("aten::index", "aten::_index_put_impl_", "aten::_unsafe_index", "aten::_unsafe_index_put")
_FROM_A_MODEL = ("_like", "aten::new_", "aten::_to_copy")
"""Operations that make a tensor after another one's picture, on another device where one is named."""


class Accelerator(contextlib.AbstractContextManager["Accelerator"]):
    """While it is entered there is a GPU, and learners may be ordered to use it.

    ``computed``: how many operations were done there; ``drawn``: those of them that drew numbers at random.
    """

    def __init__(self) -> None:
        self.computed = self.drawn = 0
        self._storages: dict[int, StorageWeakRef] = {}
        self._limit = 1 << 12
        self.named: torch.device | None = None  # by the function that is being called
        self.around = CPU  # where the tensors are that it was given
        self._exit = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._exit = contextlib.ExitStack()
        self._exit.enter_context(mock.patch.object(devices, "require"))
        self._exit.enter_context(mock.patch.object(devices, "memory_bytes", _memory_bytes))
        self._exit.enter_context(mock.patch.object(torch, "autocast", _autocast))
        self._exit.enter_context(_Operations(self))
        self._exit.enter_context(_Functions(self))
        return self

    def __exit__(self, *about: object) -> None:
        self._exit.close()

    def place(self, tensor: torch.Tensor) -> torch.device:
        """Where a tensor's memory is."""
        with torch._C.DisableTorchFunction():
            return GPU if tensor.untyped_storage()._cdata in self._storages else CPU

    def take(self, tensor: torch.Tensor) -> None:
        """From now on this memory is on the GPU. An address is not used again while a weak reference is kept."""
        with torch._C.DisableTorchFunction():
            storage = tensor.untyped_storage()
            self._storages.setdefault(storage._cdata, StorageWeakRef(storage))
        if len(self._storages) > self._limit:
            alive = {key: kept for key, kept in self._storages.items() if not kept.expired()}
            self._storages, self._limit = alive, max(1 << 12, 2 * len(alive))

    @contextlib.contextmanager
    def calling(self, named: torch.device | None, around: torch.device) -> Iterator[None]:
        """A function is being called, with a device of that name, and tensors that are there."""
        before = self.named, self.around
        self.named, self.around = named, around
        try:
            yield
        finally:
            self.named, self.around = before

    def move(self, tensor: torch.Tensor, to: torch.device) -> torch.Tensor:
        """The tensor itself where it is there already, else a copy that is."""
        if self.place(tensor) == to:
            return tensor
        moved: torch.Tensor = _Move.apply(tensor, self, to)  # type: ignore[no-untyped-call]
        return moved


class _Move(torch.autograd.Function):
    """A copy elsewhere; its gradient goes back to where the tensor was."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, accelerator: Accelerator, to: torch.device) -> torch.Tensor:
        ctx.back = accelerator, accelerator.place(tensor)
        return _copied(tensor, accelerator, to)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        accelerator, origin = ctx.back
        return _copied(gradients[0], accelerator, origin), None, None


def _copied(tensor: torch.Tensor, accelerator: Accelerator, to: torch.device) -> torch.Tensor:
    with accelerator.calling(to, to):
        return torch.ops.aten._to_copy(tensor)  # type: ignore[no-any-return]


# --- what is computed -----------------------------------------------------------------------


class _Operations(TorchDispatchMode):
    """Sees each operation: whether it may be done, and where what comes of it is."""

    def __init__(self, accelerator: Accelerator) -> None:
        super().__init__()
        self._accelerator = accelerator

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs, name = kwargs or {}, func._schema.name
        if name.startswith("aten::_foreach"):
            return self._each(func, args, kwargs)
        where = self._where(name, func._schema.is_mutable, args, kwargs)
        if where == GPU:
            self._accelerator.computed += 1
            self._accelerator.drawn += _draws(func)
            if any(isinstance(leaf, torch.Generator) for leaf in tree_leaves((args, kwargs))):
                raise RuntimeError(_GENERATOR)
        found = func(*args, **kwargs)
        if where == GPU and name != "aten::copy_":
            for leaf in _tensors(found):
                self._accelerator.take(leaf)
        return found

    def _where(self, name: str, changes: bool, args: Sequence[Any], kwargs: dict[str, Any]) -> torch.device:
        own = self._accelerator
        given = _tensors((args, kwargs))
        if not given:
            return own.named or own.around
        if name == "aten::lift_fresh":
            return own.named or CPU
        if own.named and any(part in name for part in _FROM_A_MODEL):
            return own.named
        first = own.place(given[0])
        if name == "aten::copy_":
            return first
        if name.startswith(_INDEXING) and first == GPU:  # indices may be the processor's
            given = [args[0], *_tensors(args[2:])]
        return self._common(given, first if changes else None)

    def _common(self, given: Sequence[torch.Tensor], changed: torch.device | None = None) -> torch.device:
        places = [self._accelerator.place(tensor) for tensor in given]
        if GPU not in places:
            return CPU
        if changed == CPU or any(at == CPU and t.dim() for t, at in zip(given, places, strict=True)):
            raise RuntimeError(_MIXED)
        return GPU

    def _each(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """An operation on lists: on the first of each, on the second of each, and so on."""
        lists = [arg for arg in args if isinstance(arg, list | tuple) and _tensors(arg)]
        alone = [arg for arg in args if isinstance(arg, torch.Tensor)]
        where = [self._common([*group, *alone]) for group in zip(*lists, strict=True)]
        self._accelerator.computed += where.count(GPU)
        found = func(*args, **kwargs)
        for tensor, at in zip(found or (), where, strict=False):
            if at == GPU:
                self._accelerator.take(tensor)
        return found


def _draws(func: Any) -> bool:
    """Whether an operation draws numbers. Attention is marked so for a dropout that training does not ask for."""
    return torch.Tag.nondeterministic_seeded in func.tags and "attention" not in func._schema.name


def _tensors(values: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


# --- what names a device --------------------------------------------------------------------


class _Functions(TorchFunctionMode):
    """Answers where a tensor is, moves it, and makes tensors where they are ordered."""

    def __init__(self, accelerator: Accelerator) -> None:
        super().__init__()
        self._accelerator = accelerator
        getters: dict[Any, Callable[[torch.Tensor], Any]] = {
            torch.Tensor.device: accelerator.place,
            torch.Tensor.is_cuda: lambda tensor: accelerator.place(tensor) == GPU,
            torch.Tensor.is_cpu: lambda tensor: accelerator.place(tensor) == CPU,
        }
        self._answers = {getter.__get__: answer for getter, answer in getters.items()}
        self._answers[torch.Tensor.get_device] = lambda t: 0 if accelerator.place(t) == GPU else -1
        self._answers[torch.Tensor.cuda] = lambda tensor, *_: accelerator.move(tensor, GPU)
        self._answers[torch.Tensor.cpu] = lambda tensor: accelerator.move(tensor, CPU)

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs, own = dict(kwargs or {}), self._accelerator
        if func in self._answers and args[0].device.type != "meta":
            return self._answers[func](*args, **kwargs)
        if func is torch.Tensor.to:
            return self._to(*args, **kwargs)
        given = _tensors((args, kwargs))
        if func in (torch.Tensor.numpy, torch.Tensor.__array__) and own.place(given[0]) == GPU:
            raise TypeError(_NUMPY)
        named = _named(kwargs.get("device"))
        if named is not None:
            kwargs["device"] = CPU
        around = GPU if any(own.place(tensor) == GPU for tensor in given) else CPU
        with own.calling(named, around):
            found = func(*args, **kwargs)
        if named == GPU and isinstance(found, torch.Tensor) and own.place(found) == CPU:
            return own.move(found, GPU)  # made of the caller's memory, which stays where it is
        return found

    def _to(self, tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        own, copy = self._accelerator, kwargs.pop("copy", False)
        if args and isinstance(args[0], torch.Tensor):
            args = (own.place(args[0]), args[0].dtype, *args[1:])
        device, dtype, _, layout = torch._C._nn._parse_to(*args, **kwargs)
        if _named(device) is None and device is not None:
            return tensor.to(*args, **kwargs)
        if (dtype is not None and dtype != tensor.dtype) or layout is not None:
            with own.calling(None, own.place(tensor)):
                tensor = tensor.to(dtype=dtype or tensor.dtype, memory_format=layout or torch.preserve_format)
        elif copy and device in (None, own.place(tensor)):
            return tensor.clone()
        return tensor if device is None else own.move(tensor, _named(device) or CPU)


def _named(device: Any) -> torch.device | None:
    """The processor or the GPU, however it is called; None for anything else."""
    if isinstance(device, int):
        device = torch.device("cuda", device)
    kind = None if device is None else torch.device(device).type
    return {"cpu": CPU, "cuda": GPU}.get(kind or "")


_REAL_AUTOCAST = torch.autocast


def _autocast(device_type: str, *args: Any, **kwargs: Any) -> Any:
    """Computing in fewer bits on the GPU; what is asked for the processor does nothing there."""
    if device_type == "cpu":
        kwargs["enabled"] = False
    return _REAL_AUTOCAST("cpu", *args, **kwargs)


def _memory_bytes(device: str, limit: int) -> int:
    return limit if device == devices.CPU else MEMORY_BYTES
