"""A second device for machines without one: it computes on the CPU, and keeps apart as a GPU does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from monai.data import get_track_meta, set_track_meta
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

SECOND = torch.device("meta")
"""Its name: the one device besides the CPU that every build of PyTorch lets tensors be made for."""
COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
"""What may have tensors of both devices."""


class There(Tensor):
    """
    A tensor on the second device.

    Attributes:
        here: its numbers, on the CPU.
    """

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> There:
        there = Tensor._make_wrapper_subclass(
            cls,
            here.shape,
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=SECOND,
        )
        there.here = here
        return there

    def __init__(self, here: Tensor) -> None:
        pass

    def new_tensor(self, data: Any, **options: Any) -> There:
        """Made before PyTorch's dispatcher sees it, which leaves numbers out on this device."""
        return There(self.here.new_tensor(data, **options))

    @classmethod
    def __torch_dispatch__(
        cls, op: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        return _compute(op, args, kwargs or {})


class _Dispatch(TorchDispatchMode):
    """Also sees what is made anew, or copied from the CPU."""

    def __torch_dispatch__(
        self, op: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        return _compute(op, args, kwargs or {})


def _compute(op: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """
    One operation: its result lies where it was asked for, else where its inputs do.

    Raises:
        RuntimeError: if inputs lie on both devices; single numbers of the CPU go with either, as on a GPU.
    """
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    goes_there = any(isinstance(tensor, There) for tensor in tensors)
    if goes_there and op not in COPIES and any(type(t) is Tensor and t.ndim for t in tensors):
        raise RuntimeError(f"{op}: expected all tensors to be on the same device, found {SECOND} and cpu.")
    if kwargs.get("device") is not None:
        goes_there = kwargs["device"] == SECOND
        kwargs = kwargs | {"device": torch.device("cpu")}
    args_here, kwargs_here = tree_map_only(There, lambda tensor: tensor.here, (args, kwargs))
    made = op(*args_here, **kwargs_here)
    if op._schema.is_mutable:  # in place: what was changed is what was given
        return None if made is None else args[0]
    return tree_map_only(Tensor, There, made) if goes_there else made


@contextmanager
def second_device() -> Iterator[torch.device]:
    """Inside, there is a device besides the CPU; MONAI's own kind of tensor cannot be on it."""
    tracks = get_track_meta()
    set_track_meta(False)
    try:
        with _Dispatch():
            yield SECOND
    finally:
        set_track_meta(tracks)
