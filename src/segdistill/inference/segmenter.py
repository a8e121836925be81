"""Images in memory in, predictions out: a network as an object that is called with pictures."""

from pathlib import Path
from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from segdistill.data.images import read_image, upright_rgb
from segdistill.data.labels import LabelSet
from segdistill.inference.prediction import Prediction, predict_image
from segdistill.models.trained import TrainedNetwork

Picture = Image.Image | NDArray[np.uint8] | str | Path
"""A PIL image of any mode, H x W x 3 uint8 RGB, or the path of an image file."""
Pictures = list[Picture] | tuple[Picture, ...]


class Segmenter:
    """Segments pictures, each resized as its network wants it, and gives masks of their own size.

    ```python
    segment = segdistill.load("runs/mine")
    prediction = segment("photo.jpg")
    prediction.mask  # H x W uint8 class indices; .shares, .overlay()
    ```

    Args:
        network: on `device`.
        size: long side of the network's input in pixels; None for what its run was evaluated at.
        flip: average with the mirrored image.
        device: where the network is; None for the CPU.
    """

    def __init__(
        self,
        network: TrainedNetwork,
        *,
        size: int | None = None,
        flip: bool = False,
        device: torch.device | None = None,
    ) -> None:
        self.network, self.size = network, network.long_side(size)
        self.flip, self.device = flip, device

    @property
    def labels(self) -> LabelSet:
        """Names and colours of the classes, in the order of their indices."""
        return self.network.labels

    @overload
    def __call__(self, pictures: Picture, *, probabilities: bool = ...) -> Prediction: ...

    @overload
    def __call__(self, pictures: Pictures, *, probabilities: bool = ...) -> list[Prediction]: ...

    def __call__(
        self, pictures: Picture | Pictures, *, probabilities: bool = False
    ) -> Prediction | list[Prediction]:
        """Segment a picture, or a list of them.

        Args:
            pictures: one, or a list or tuple; an array with four axes is no list of pictures.
            probabilities: also keep K x H x W float32 probabilities of all classes.

        Returns:
            The prediction of a picture; a list of them for a list.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: a file or array is no picture, or the network has no probabilities.
        """
        if probabilities:
            self.network.require_probabilities()
        if isinstance(pictures, list | tuple):
            return [self._segment(picture, probabilities) for picture in pictures]
        return self._segment(pictures, probabilities)

    def _segment(self, picture: Picture, probabilities: bool) -> Prediction:
        return predict_image(
            self.network,
            as_image(picture, self.network.bits),
            size=self.size,
            flip=self.flip,
            probabilities=probabilities,
            device=self.device,
        )


def as_image(picture: Picture, bits: int | None = None) -> Image.Image:
    """A picture as an upright 8-bit RGB image; `bits` as `read_image` has it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file is no image, or an array is not H x W x 3 uint8.
    """
    if isinstance(picture, str | Path):
        return read_image(Path(picture), bits)
    if isinstance(picture, Image.Image):
        return upright_rgb(picture, bits)
    if not isinstance(picture, np.ndarray):
        raise ValueError(
            f"a picture is a {type(picture).__name__}, but must be a PIL image, an array or a path"
        )
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or not picture.size:
        raise ValueError(
            f"an array has the shape {picture.shape} of {picture.dtype}, but must be H x W x 3 uint8 RGB "
            "(OpenCV's BGR: image[..., ::-1]; floats from 0 to 1: (255 * image).astype('uint8'))"
        )
    return Image.fromarray(np.ascontiguousarray(picture))
