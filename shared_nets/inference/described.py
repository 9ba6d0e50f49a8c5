"""Settings in words: what results tell of the transforms and the inferer that made them."""

from __future__ import annotations

from enum import Enum
from typing import Any

from monai.transforms import Compose
from torch import Tensor

# Attributes of transforms and inferers: where and how many at a time; a random state.
_CHANGES_NOTHING = ("device", "sw_device", "sw_batch_size", "R")


def described(thing: Any) -> str | list[str]:
    """
    What a transform or inferer is set to, on one line; of a chain of transforms, a line each.

    Args:
        thing: its attributes are told, and theirs, down to numbers and words; of a function its name. What
            changes no result is left out.
    """
    return [_line(t) for t in thing.flatten().transforms] if isinstance(thing, Compose) else _line(thing)


def _line(thing: Any) -> str:
    if isinstance(thing, (list, tuple)):
        return f"[{', '.join(map(_line, thing))}]"
    if hasattr(thing, "__qualname__"):
        return str(thing.__qualname__)
    if isinstance(thing, Tensor):
        return f"Tensor({list(thing.shape)}, mean {float(thing.float().mean()):.6g})"
    if isinstance(thing, Enum) or not hasattr(thing, "__dict__"):
        return repr(thing)
    told = {key: value for key, value in vars(thing).items() if key[0] != "_" and key not in _CHANGES_NOTHING}
    return f"{type(thing).__name__}({', '.join(f'{key}={_line(value)}' for key, value in told.items())})"
