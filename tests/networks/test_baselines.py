from __future__ import annotations

import pytest
import torch

from shared_nets import DeepLabV3Plus, DenseUNet2D, PSPNet, SegNet
from shared_nets.networks.baselines import DilatedResNet50, pool, unpool
from tests.networks.base import NetworkTests


class TestSegNet(NetworkTests):
    make = SegNet
    trainable = 29_434_497
    statistics = 15_872


class TestPSPNet(NetworkTests):
    make = PSPNet
    trainable = 46_576_065
    statistics = 58_240


class TestDeepLabV3Plus(NetworkTests):
    make = DeepLabV3Plus
    trainable = 40_340_769
    statistics = 57_312


class TestDenseUNet2D(NetworkTests):
    make = DenseUNet2D
    trainable = 49_516_897
    statistics = 222_752


RESNET50 = 23_508_032  # He et al.'s 25,557,032 without the 1000-class head
RGB_STEM, GREY_STEM = 7 * 7 * 3 * 64, 7 * 7 * 64


@pytest.mark.parametrize("stride", [8, 16])
def test_the_backbone_is_resnet50_with_a_large_map(stride: int) -> None:
    with torch.device("meta"):
        net = DilatedResNet50(1, stride)
        shallow, deep = net(torch.rand(1, 1, 96, 64))
    assert sum(p.numel() for p in net.parameters()) == RESNET50 - RGB_STEM + GREY_STEM
    assert shallow.shape == (1, 256, 24, 16)
    assert deep.shape == (1, 2048, 96 // stride, 64 // stride)


def test_dilation_sees_what_strides_would_have_seen() -> None:
    """Every second position of the dilated map is what the strided ResNet-50 computes there."""
    from monai.networks.nets import resnet50

    torch.manual_seed(0)
    plain = resnet50(
        spatial_dims=2, n_input_channels=1, conv1_t_stride=2, feed_forward=False, bias_downsample=False
    ).eval()  # fmt: skip
    dilated = DilatedResNet50(1, stride=16).eval()
    for name in ("layer1", "layer2", "layer3", "layer4"):
        getattr(dilated, name).load_state_dict(getattr(plain, name).state_dict())
    dilated.stem[0].load_state_dict(plain.conv1.state_dict())
    dilated.stem[1].load_state_dict(plain.bn1.state_dict())
    x = torch.rand(1, 1, 64, 96)
    with torch.inference_mode():
        strided = plain.layer4(plain.layer3(plain.layer2(plain.layer1(dilated.stem(x)))))
        # Where the stride was, the kernel still sees the undilated map.
        first = dilated.layer4[0]
        first.conv2.dilation = first.conv2.padding = (1, 1)
        _, deep = dilated(x)
    torch.testing.assert_close(deep[:, :, ::2, ::2], strided, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(4, 6), (3, 5), (1, 1)])
def test_unpooling_puts_the_largest_back_where_they_were(size: tuple[int, int]) -> None:
    x = 1 + torch.rand(2, 3, *size)
    largest, places = pool(x)
    back = unpool(largest, places, x)
    assert back.shape == x.shape
    kept = back > 0
    assert torch.equal(back[kept], x[kept])
    assert kept.sum() == largest.numel()
    assert torch.equal(pool(back)[0], largest)


def test_dense_unet_halves_odd_maps() -> None:
    """48 rows are 3 at the fourth level and round up to 2 at the fifth."""
    net = DenseUNet2D().eval()
    seen: list[torch.Size] = []
    net.dense4.register_forward_hook(lambda _module, _inputs, output: seen.append(output.shape))
    with torch.inference_mode():
        net(torch.rand(1, 1, 48, 32))
    assert [tuple(shape[2:]) for shape in seen] == [(2, 1)]
