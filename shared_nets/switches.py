"""Switches, numbers and other values of a config, as a command line gives them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any, TypeGuard

from shared_nets.errors import UsageError


def is_true(value: bool | str) -> bool:
    """
    Whether a switch is on: every config reads its own through this.

    Python Fire, MONAI's command line, turns ``False`` into a boolean and leaves ``false``, which JSON users
    type, as text; any text would count as true.

    Args:
        value: true or false, or that as text in any case.

    Raises:
        UsageError: if it is neither.
    """
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if isinstance(value, bool):
        return value
    raise UsageError(f"{value!r} is neither true nor false: write one of them.")


def is_number(value: object) -> TypeGuard[float]:
    """Whether a setting is a number; true and false, which Python counts as such, are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def check_amount(name: str, value: object, what: str = "a number") -> None:
    """
    Refuse a setting that is no finite number of at least 0.

    Args:
        name: the setting's.
        value: what it is set to.
        what: what it should be, for the message.

    Raises:
        UsageError: if it is none.
    """
    if not is_number(value) or not 0 <= value < math.inf:
        raise UsageError(f"{name} is {what}, at least 0, not {value!r}.")


def parse_settings(settings: Iterable[str] | None) -> dict[str, Any]:
    """
    Values of a config by their keys.

    Args:
        settings: ``key=value``; a value that is JSON is read as such, any other is text.

    Raises:
        UsageError: if one has no key, or no value.
    """
    parsed: dict[str, Any] = {}
    for setting in settings or []:
        key, found, value = setting.partition("=")
        if not found or not key:
            raise UsageError(f"--set {setting}: write KEY=VALUE, such as max_epochs=20.")
        try:
            parsed[key] = json.loads(value)
        except ValueError:
            parsed[key] = value
    return parsed
