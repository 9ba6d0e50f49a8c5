"""Augmentation that MONAI lacks."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform


class RandDropChanneld(RandomizableTransform, MapTransform):
    """
    Sometimes sets one channel to zero, as if that scan were missing, and never the last one that is there.

    Trained so, one network segments DWI with FLAIR, DWI alone and FLAIR alone.
    """

    def __init__(self, keys: KeysCollection, prob: float = 0.3, allow_missing_keys: bool = False) -> None:
        """
        Args:
            keys: images ``(channels, ...)``.
            prob: how often a channel is dropped.
            allow_missing_keys: do not complain about a missing key.
        """
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Affine and size stay as they are."""
        out = dict(data)
        self.randomize(None)
        if not self._do_transform:
            return out
        for key in self.key_iterator(out):
            image = out[key].clone()
            present = [c for c in range(len(image)) if bool((image[c] != 0).any())]
            if len(present) > 1:
                image[present[self.R.randint(len(present))]] = 0
            out[key] = image
        return out
