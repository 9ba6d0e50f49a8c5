"""Which channels are dropped in training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from shared_nets.training import RandDropChanneld


def image_of(channels: int = 2) -> MetaTensor:
    return MetaTensor(torch.ones(channels, 4, 4), affine=torch.diag(torch.tensor([2.0, 3, 4, 1])))


def test_one_channel_and_only_one() -> None:
    drop = RandDropChanneld("image", prob=1)
    drop.set_random_state(0)
    left = {tuple(drop({"image": image_of()})["image"].mean(dim=(1, 2)).tolist()) for _ in range(50)}
    assert left == {(0, 1), (1, 0)}


def test_as_often_as_asked() -> None:
    drop = RandDropChanneld("image", prob=0.3)
    drop.set_random_state(0)
    dropped = np.mean([drop({"image": image_of()})["image"].mean() < 1 for _ in range(1000)])
    assert dropped == pytest.approx(0.3, abs=0.05)  # three standard errors


def test_the_last_one_stays() -> None:
    drop = RandDropChanneld("image", prob=1)
    image = image_of()
    image[1] = 0
    assert torch.equal(drop({"image": image})["image"], image)
    assert drop({"image": image_of(1)})["image"].all()


def test_the_input_and_the_rest_stay_as_they_are() -> None:
    image = image_of()
    out = RandDropChanneld("image", prob=1)({"image": image, "label": 5, "image_path": "a"})
    assert image.all()
    assert (out["label"], out["image_path"]) == (5, "a")
    assert torch.equal(out["image"].affine, image.affine)


def test_missing_keys() -> None:
    with pytest.raises(KeyError):
        RandDropChanneld("image", prob=1)({})
    assert RandDropChanneld("image", prob=1, allow_missing_keys=True)({"a": 1}) == {"a": 1}
