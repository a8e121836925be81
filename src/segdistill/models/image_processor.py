"""What a network of Hugging Face wants of its input, as its image processor has it."""

from dataclasses import dataclass
from typing import Any

from segdistill.data.transforms import IMAGENET_MEAN, IMAGENET_STD

SHORT_TO_LONG = 4 / 3
"""Long side of a photograph, in short sides."""


@dataclass(frozen=True, kw_only=True)
class InputForm:
    """How images become a network's input.

    Attributes:
        mean, std: of RGB in 0 to 1; what is not rescaled or not normalised is expressed by these too.
        reverse_channels: the network takes BGR.
        sides: height and width that the processor resizes to; None where the image's shape is kept.
        long_side: of the images it is meant for, in pixels; None for any.
    """

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    reverse_channels: bool = False
    sides: tuple[int, int] | None = None
    long_side: int | None = None

    def __post_init__(self) -> None:
        for name in ("mean", "std", "sides"):  # lists, where it was read from JSON
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else tuple(value))


def input_form(processor: Any) -> InputForm:
    """The input that an image processor of transformers makes of 8-bit RGB images.

    Raises:
        ValueError: mean or std are not three numbers, or a std is 0.
    """
    mean, std = _statistics(processor)
    reverse = bool(getattr(processor, "do_flip_channel_order", None))  # MobileViT's, which does not normalise
    sides, long_side = _size(processor)
    return InputForm(mean=mean, std=std, reverse_channels=reverse, sides=sides, long_side=long_side)


def _statistics(processor: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std, of pixels in 0 to 1, that do what rescaling and normalising 0 to 255 does."""
    factor = float(processor.rescale_factor) if getattr(processor, "do_rescale", None) else 1.0
    mean, std = [0.0] * 3, [1.0] * 3
    if getattr(processor, "do_normalize", None):
        mean, std = (_three(getattr(processor, name)) for name in ("image_mean", "image_std"))
    if len(mean) != 3 or len(std) != 3 or factor <= 0 or min(std) <= 0:
        raise ValueError(f"mean {mean}, std {std} and rescale_factor {factor} are not those of RGB images")
    # It computes (255 * x * factor - mean) / std of x in 0 to 1.
    return tuple(v / (255 * factor) for v in mean), tuple(v / (255 * factor) for v in std)


def _three(values: Any) -> list[float]:
    """A number for each channel, or one for all."""
    return [float(v) for v in values] if isinstance(values, list | tuple) else [float(values)] * 3


def _size(processor: Any) -> tuple[tuple[int, int] | None, int | None]:
    """The sides that the processor resizes to, and the long side that its images have then."""
    size = getattr(processor, "size", None)
    if not size or not getattr(processor, "do_resize", True):
        return None, None
    size = dict(size)
    if size.get("height") and size.get("width"):
        return (size["height"], size["width"]), max(size["height"], size["width"])
    short, longest = size.get("shortest_edge"), size.get("longest_edge")
    if not short:
        return None, longest
    usual = round(SHORT_TO_LONG * short)
    return None, min(usual, longest) if longest else usual
