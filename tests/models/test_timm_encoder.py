"""Encoders of timm with light decoders: five families and more, random weights."""

import pytest
import timm
import torch
from torch import nn

from segdistill.config.architecture import Architecture, DecoderName
from segdistill.models.decoders import EncoderDecoder
from segdistill.models.timm_encoder import ChannelsFirst, create_encoder, find_anchor, fix_padding
from segdistill.models.zoo import build_model, input_statistics

pytestmark = pytest.mark.unit
LITE = "tf_efficientnet_lite0"


@pytest.mark.parametrize(
    "encoder",
    [LITE, "mobilenetv3_small_050", "mobilenetv4_conv_small", "repvit_m0_9", "efficientvit_b0"],
)
@pytest.mark.parametrize("decoder", ["fpn", "lraspp", "deeplab"])
def test_families_give_logits_at_any_size(encoder: str, decoder: DecoderName) -> None:
    network = build_model(Architecture(spec=f"timm:{encoder}", decoder=decoder, channels=16), 5).eval()
    with torch.inference_mode():
        assert network(torch.randn(1, 3, 45, 67)).shape == (1, 5, 45, 67)


def test_maps_with_channels_last_are_turned() -> None:
    class Last(nn.Module):
        def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
            return [image.permute(0, 2, 3, 1)]

    image = torch.randn(1, 3, 4, 5)
    assert torch.equal(ChannelsFirst(Last())(image)[0], image)


def test_the_encoder_dilates_where_the_decoder_wants_stride_16() -> None:
    network = build_model(Architecture(spec=f"timm:{LITE}", decoder="deeplab"), 5)
    assert isinstance(network, EncoderDecoder)
    assert (network.multiple, network.decoder.stride) == (16, 16)


def test_channels_are_settable() -> None:
    narrow, wide = (
        build_model(Architecture(spec=f"timm:{LITE}", channels=channels), 5) for channels in (8, None)
    )
    assert [network.decoder.head[-1].in_channels for network in (narrow, wide)] == [8, 96]  # type: ignore[union-attr, index]


def test_an_encoder_brings_its_own_statistics() -> None:
    assert input_statistics(build_model(f"timm:{LITE}", 3)) == ((0.5,) * 3, (0.5,) * 3)
    assert input_statistics(build_model("dsunet", 3)) == (None, None)


@pytest.mark.parametrize("stride", [32, 16])
def test_fixed_padding_is_timms_own(stride: int) -> None:
    torch.manual_seed(0)
    encoder = timm.create_model(LITE, features_only=True, output_stride=stride).eval()
    image = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        before = encoder(image)
        names = list(encoder.state_dict())
        fix_padding(encoder)
        assert list(encoder.state_dict()) == names
        for one, other in zip(before, encoder(image), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "anchor"),
    [(LITE, "last"), ("mobilenetv2_050", "first"), ("convnext_atto", "centre"), ("vgg11", "centre")],
)
def test_where_the_points_of_maps_lie(name: str, anchor: str) -> None:
    encoder = create_encoder(name, 32)
    fix_padding(encoder)
    assert find_anchor(encoder) == anchor


def test_an_unknown_encoder_is_named_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean timm:tf_efficientnet_lite0"):
        build_model("timm:tf_efficientnet_lite00", 3)


def test_settings_of_other_networks_are_refused() -> None:
    with pytest.raises(ValueError, match="stride is 2, but only dsunet takes one, not timm:"):
        build_model(Architecture(spec=f"timm:{LITE}", stride=2), 3)
    with pytest.raises(ValueError, match="decoder is lraspp, but only timm:ENCODER takes one, not dsunet"):
        build_model(Architecture(decoder="lraspp"), 3)
