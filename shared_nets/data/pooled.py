"""DWI and FLAIR as separate one-channel samples, as the CNN-Res paper trains on them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from shared_nets.data.cases import find_cases
from shared_nets.data.loading import LoadScand
from shared_nets.data.names import Case, subject_of


def pooled_cases(source: Any, modalities: Sequence[str] = ("DWI", "FLAIR"), **options: Any) -> list[Case]:
    """
    The cases of `find_cases`, each once for every modality it has.

    Args:
        source: as in `find_cases`.
        modalities: two.
        options: further arguments of `find_cases`.

    Returns:
        Cases with ``channel``, the modality's number, ``subject``, and ``_DWI`` or ``_FLAIR`` at the end of
        their name.
    """
    shown = LoadScand(modalities=modalities).shown
    return [
        {**case, "subject": subject_of(case), "channel": channel, "name": f"{case['name']}_{modality}"}
        for case in find_cases(source, modalities=modalities, **options)
        for channel, (modality, there) in enumerate(zip(modalities, shown(case["image"]), strict=True))
        if there
    ]


class LoadOneChanneld(LoadScand):
    """`LoadScand`, of which only the modality with the case's number ``channel`` is kept."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """
        Args:
            data: a case of `pooled_cases`.

        Returns:
            the case with each key's paths replaced by its scan (1, X, Y, Z), on the DWI's grid.
        """
        loaded = super().__call__(data)
        channel = int(loaded["channel"])
        for key in self.key_iterator(loaded):
            loaded[key] = loaded[key][channel : channel + 1]
        return loaded
