"""Images in memory in, predictions out: a network as an object that is called with pictures."""

from typing import overload

import torch

from segdistill.data.labels import LabelSet
from segdistill.data.pictures import Picture, Pictures, as_image
from segdistill.inference.prediction import Prediction, predict_image
from segdistill.models.trained import TrainedNetwork


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
