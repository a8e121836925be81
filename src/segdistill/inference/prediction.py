"""An image in; palette masks, overlays with a legend and probabilities out, at the image's own size."""

import functools
import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from segdistill.data.images import write_image
from segdistill.data.labels import VOID, LabelSet
from segdistill.data.masks import palette_image
from segdistill.data.transforms import resize_long_side, to_tensor
from segdistill.files import write_atomic
from segdistill.inference.segment import class_mask, class_probabilities, largest_class, run_network, segment
from segdistill.models.trained import TrainedNetwork

STRIP = 256
"""Rows of a picture that are coloured at a time."""

VOID_OPACITY = 0.8
"""Of void pixels in an overlay: far above a class's, for its pale grey must not look like a light picture."""

JPEG_SIDE = 65500
"""Longest side, in pixels, that a JPEG file can have."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The classes that a network finds in one image.

    Attributes:
        image: the picture, upright RGB.
        mask: H x W uint8 class indices; `VOID` where the class is left open.
        probabilities: K x H x W float32; None unless asked for.
        labels: the K classes.
    """

    image: Image.Image
    mask: np.ndarray
    probabilities: np.ndarray | None
    labels: LabelSet

    @cached_property
    def shares(self) -> dict[str, float]:
        """Share of the pixels of each class that occurs, largest first; the rest of them is void."""
        counts = np.bincount(self.mask.ravel(), minlength=VOID + 1)[: len(self.labels)] / self.mask.size
        order = np.argsort(-counts, kind="stable")
        return {self.labels.names[i]: float(counts[i]) for i in order if counts[i] > 0}

    def palette_mask(self) -> Image.Image:
        """The mask as a palette image: indices in the file, the label set's colours on the screen."""
        return palette_image(self.mask, self.labels)

    def overlay(self, opacity: float = 0.55) -> Image.Image:
        """The picture under its classes' colours, and a legend of the classes below it.

        Class 0 stays uncoloured where the label set calls it background.
        """
        return _with_legend(Image.fromarray(blend(self, opacity)), self)

    def _repr_jpeg_(self) -> bytes:
        """The overlay, as a notebook shows it."""
        buffer = io.BytesIO()
        self.overlay().save(buffer, "JPEG", quality=90)
        return buffer.getvalue()


def blend(prediction: Prediction, opacity: float = 0.55) -> np.ndarray:
    """H x W x 3 uint8: the picture under its classes' colours, background without one, void pale."""
    colours = np.array(prediction.labels.file_palette, dtype=np.float32).reshape(VOID + 1, 3)
    weights = np.full((VOID + 1, 1), opacity, dtype=np.float32)
    weights[VOID] = VOID_OPACITY
    if prediction.labels.names[0] == "background":
        weights[0] = 0
    keep, tint = 1 - weights[:, 0], colours * weights
    picture = np.array(prediction.image)
    for top in range(0, len(picture), STRIP):  # float32 of a whole photograph would take a gigabyte
        pixels = picture[top : top + STRIP].reshape(-1, 3)  # a view
        classes = prediction.mask[top : top + STRIP].ravel()
        coloured = np.flatnonzero(weights[classes, 0])
        classes = classes[coloured]
        blended = pixels.take(coloured, axis=0) * keep.take(classes)[:, None]
        pixels[coloured] = (blended + tint.take(classes, axis=0)).round()
    return picture


def predict_image(
    network: TrainedNetwork,
    image: Image.Image,
    *,
    size: int | None = None,
    flip: bool = False,
    probabilities: bool = True,
    device: torch.device | None = None,
) -> Prediction:
    """Segment one RGB image.

    Args:
        network: on `device`.
        image: upright RGB.
        size: long side of the network's input in pixels; None for what its run was evaluated at.
        flip: average with the mirrored image.
        probabilities: also keep those of all classes, at the network's temperature.
        device: where the network is; None for the CPU.
    """
    pixels = network_input(image, network.long_side(size)).to(device or "cpu")
    full = (image.height, image.width)
    if not (probabilities or flip):
        mask, kept = class_mask(run_network(network, pixels[None])[0], full), None
    else:
        logits = segment(network, pixels, full, flip=flip)
        mask, kept = largest_class(logits), None
        if probabilities:
            kept = class_probabilities(logits, network.temperature).cpu().numpy()
    return Prediction(image=image, mask=mask, probabilities=kept, labels=network.labels)


def network_input(image: Image.Image, long_side: int | None) -> Tensor:
    """3 x h x w uint8 of an RGB image, its longer side resized to `long_side` pixels (None: as it is)."""
    return resize_long_side(to_tensor(image), long_side)


def write_prediction(
    prediction: Prediction, folder: Path, name: Path, *, probabilities: bool = False, overlay: bool = True
) -> Path:
    """Write NAME.png (palette mask), NAME_overlay.jpg and, on request, NAME.npz into `folder`.

    Returns:
        The mask file.
    """
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    mask = target.with_name(f"{name.name}.png")
    write_image(mask, prediction.palette_mask(), "PNG")
    if overlay:
        shown = prediction.overlay()
        shown.thumbnail((JPEG_SIDE, JPEG_SIDE))
        write_image(target.with_name(f"{name.name}_overlay.jpg"), shown, "JPEG")
    if probabilities:
        assert prediction.probabilities is not None
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            probabilities=prediction.probabilities.astype(np.float16),
            names=np.array(prediction.labels.names),
        )
        write_atomic(target.with_name(f"{name.name}.npz"), buffer.getvalue())
    return mask


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's font in a size, in pixels; of the few sizes of a legend each is read once."""
    return ImageFont.load_default(size)


def _with_legend(picture: Image.Image, prediction: Prediction) -> Image.Image:
    """A strip below the picture with a swatch, name and share of each class, as many rows as they need."""
    size = max(10, min(28, picture.width // 26))
    font = _font(size)
    gap = size // 2
    entries, x, y = [], gap, gap
    for name, share in prediction.shares.items():
        text = f"{name} {share:.0%}" if share >= 0.01 else f"{name} <1%"
        width = 2 * size + round(font.getlength(text)) + gap
        if x > gap and x + width > picture.width:
            x, y = gap, y + size + gap
        entries.append((x, y, name, text))
        x += width + gap
    sheet = Image.new("RGB", (picture.width, picture.height + y + size + gap), "white")
    sheet.paste(picture)
    draw = ImageDraw.Draw(sheet)
    for x, y, name, text in entries:
        top = picture.height + y
        colour = prediction.labels.palette[prediction.labels.names.index(name)]
        draw.rectangle((x, top, x + size, top + size), fill=colour, outline="black")
        draw.text((x + 1.5 * size, top + size / 2), text, fill="black", font=font, anchor="lm")
    return sheet
