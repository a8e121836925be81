"""Decoders for pretrained encoders: shapes, and where grid points lie in the image."""

import pytest
import torch
from torch import nn

from segdistill.models.decoders import DECODERS, EncoderDecoder

pytestmark = pytest.mark.unit


class Pyramid(nn.Module):
    """An encoder whose maps are means over cells, repeated over channels."""

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        maps = [nn.functional.avg_pool2d(image[:, :1], stride) for stride in (2, 4, 8, 16, 32)]
        return [x.repeat(1, channels, 1, 1) for x, channels in zip(maps, (3, 4, 5, 6, 7), strict=True)]


@pytest.mark.parametrize(("name", "stride"), [("fpn", 4), ("lraspp", 8), ("deeplab", 32)])
def test_a_decoder_gives_logits_on_its_own_grid(name: str, stride: int) -> None:
    decoder = DECODERS[name]([3, 4, 5, 6, 7], [2, 4, 8, 16, 32], 9, 16).eval()
    maps = Pyramid()(torch.randn(2, 3, 64, 96))
    assert decoder.stride == stride
    assert decoder(maps).shape == (2, 9, 64 // stride, 96 // stride)
    network = EncoderDecoder(Pyramid(), decoder, 32).eval()
    for size in ((64, 96), (65, 33), (1, 7)):
        assert network(torch.randn(1, 3, *size)).shape == (1, 9, *size)


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_trains_on_a_batch_of_one(name: str) -> None:
    decoder = DECODERS[name]([3, 4, 5, 6, 7], [2, 4, 8, 16, 32], 2, 8).train()
    decoder(Pyramid()(torch.randn(1, 3, 64, 64))).sum().backward()
    assert all(parameter.grad is not None for parameter in decoder.parameters())
