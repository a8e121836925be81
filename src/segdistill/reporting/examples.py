"""Images with their masks and predictions, side by side: which ones to show, in which colours, on what grid.

H, W: rows and columns of one image.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image
from torch import Tensor, nn

from segdistill.data.labels import VOID, LabelSet
from segdistill.data.samples import FileSamples
from segdistill.data.transforms import resize_long_side
from segdistill.files import data_url
from segdistill.inference.segment import largest_class, segment
from segdistill.reporting.records import TEACHER, Records
from segdistill.reporting.style import LINE, MUTED, WIDTH, figure_style, legend, shorten

VOID_COLOUR = (226, 226, 226)
CORRECT, WRONG, UNKNOWN = (214, 217, 221), (213, 43, 30), (255, 255, 255)
"""Colours of an error map; unknown is where the truth is void."""
LONG_SIDE = 480
"""Pixels of the longer side of a shown image, about twice what it has on the page."""
THUMBNAIL = 200
"""The same, of the small pictures of the first screen."""
Colour = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Example:
    """One validation image and what each network predicts for it.

    Attributes:
        id: its name.
        role: why it is shown: best, median or worst.
        scores: its mean IoU over the classes in its truth or its prediction, by run.
        image: H x W x 3 uint8, RGB.
        truth: H x W uint8, class index or 255 = void.
        predictions: H x W uint8 class indices by network, the teacher first (as "teacher"), then each run.
    """

    id: str
    role: str
    scores: dict[str, float | None]
    image: np.ndarray
    truth: np.ndarray
    predictions: dict[str, np.ndarray]

    def __post_init__(self) -> None:
        assert self.image.shape == (*self.truth.shape, 3), (self.image.shape, self.truth.shape)
        assert all(mask.shape == self.truth.shape for mask in self.predictions.values()), self.id


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One picture of an example.

    Attributes:
        title: heading of its column.
        picture: RGB for a photograph, palette for a mask; at most `LONG_SIDE` pixels long.
        caption: what stands below it.
    """

    title: str
    picture: Image.Image
    caption: str = ""


def examples_or_reason(
    records: Sequence[Records], open_networks: Callable[[], tuple[FileSamples, dict[str, nn.Module]]]
) -> list[Example] | str:
    """Pictures of the runs' best, median and worst images, or why there are none."""
    if not records[0].image_scores:
        return []
    try:
        val, networks = open_networks()
        return make_examples(val, networks, {run.name: run.image_scores for run in records})
    except (FileNotFoundError, ValueError) as error:
        return f"The images of the validation set could not be shown: {error}"


def make_examples(
    samples: FileSamples,
    networks: Mapping[str, nn.Module],
    scores: Mapping[str, Mapping[str, float | None]],
    count: int = 4,
) -> list[Example]:
    """The best, median and worst images of the first run, with the predictions of all networks.

    A network gets an image at the long side `size` that it has as an attribute, as when it was scored;
    without one (a teacher), at the image's own size.

    Args:
        samples: the validation set.
        networks: by name, in eval mode, the teacher first (as "teacher"), then each run.
        scores: mean IoU by image id, by run.
        count: how many images of each kind.

    Raises:
        ValueError: an image that was scored is not in `samples`.
    """
    index_of = {str(name): index for index, name in enumerate(samples.ids)}
    examples = []
    for role, name in pick_examples(next(iter(scores.values())), count):
        if name not in index_of:
            raise ValueError(f"{name} is no longer in the data set")
        sample = samples[index_of[name]]
        examples.append(
            Example(
                id=name,
                role=role,
                scores={run: images.get(name) for run, images in scores.items()},
                image=sample.image.permute(1, 2, 0).numpy(),
                truth=sample.mask.numpy(),
                predictions={
                    label: _predicted(network, sample.image, sample.mask.shape)
                    for label, network in networks.items()
                },
            )
        )
    return examples


def _predicted(network: nn.Module, image: Tensor, size: torch.Size) -> np.ndarray:
    """3 x h x w uint8 -> H x W uint8 class indices, on the network's device."""
    weights = next(network.parameters(), None)
    image = resize_long_side(image, getattr(network, "size", None))
    return largest_class(segment(network, image if weights is None else image.to(weights.device), size))


def pick_examples(images: Mapping[str, float | None], count: int = 2) -> list[tuple[str, str]]:
    """Which images to show: the best, those in the middle, and the worst.

    Args:
        images: mean IoU by image id; None (all void) is left out, equal ones go by id.
        count: how many of each; where there are too few, no image is taken twice.

    Returns:
        (role, id) from the best to the worst.
    """
    scored = [(score, name) for name, score in images.items() if score is not None]
    ranked = [name for _, name in sorted(scored, key=lambda pair: (-pair[0], pair[1]))]
    third, rest = divmod(len(ranked), 3)
    best, worst, median = min(count, third + (rest > 0)), min(count, third + (rest > 1)), min(count, third)
    middle = max(best, (len(ranked) - median) // 2)
    chosen = {
        "best": ranked[:best],
        "median": ranked[middle : middle + median],
        "worst": ranked[len(ranked) - worst :],
    }
    return [(role, name) for role, names in chosen.items() for name in names]


def tiles(example: Example, labels: LabelSet) -> list[Tile]:
    """The pictures of one row: image, ground truth, each prediction, then the errors of each run."""
    runs = {name: mask for name, mask in example.predictions.items() if name != TEACHER}
    row = mask_tiles(example, labels)
    for name, mask in runs.items():
        title = "errors" if len(runs) == 1 else f"errors of {name}"
        row.append(_error_tile(title, error_map(example.truth, mask)))
    return row


def difference_tiles(example: Example, labels: LabelSet) -> list[Tile]:
    """The pictures of one row: image, ground truth, the masks of two networks, and where these differ."""
    first, second = example.predictions.values()
    return [*mask_tiles(example, labels), _error_tile("difference", (first != second).astype(np.uint8))]


def mask_tiles(example: Example, labels: LabelSet) -> list[Tile]:
    """Image, ground truth and each prediction."""
    size = _shown_size(example.truth.shape)
    photograph = Image.fromarray(example.image).resize(size, Image.Resampling.LANCZOS)
    palette = class_palette(labels)
    row = [
        Tile(title="image", picture=photograph, caption=example.id),
        Tile(title="ground truth", picture=_indexed(example.truth, palette, size)),
    ]
    for name, mask in example.predictions.items():
        score = example.scores.get(name)
        caption = "" if score is None else f"mIoU {100 * score:.1f}\u00a0%"
        row.append(Tile(title=name, picture=_indexed(mask, palette, size), caption=caption))
    return row


def _error_tile(title: str, errors: np.ndarray) -> Tile:
    """An H x W uint8 map of right (0), wrong (1) and unknown (2)."""
    size = _shown_size(errors.shape)
    return Tile(title=title, picture=_indexed(errors, [CORRECT, WRONG, UNKNOWN], size))


def error_map(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """H x W uint8: 0 where the prediction is right, 1 where it is wrong, 2 where the truth is void."""
    return np.where(truth == VOID, 2, truth != prediction).astype(np.uint8)


def class_palette(labels: LabelSet) -> list[Colour]:
    """256 colours by class index, void in pale grey."""
    palette: list[Colour] = [*labels.palette, *[(0, 0, 0)] * (VOID - len(labels))]
    return [*palette, VOID_COLOUR]


def colour_legend(examples: Sequence[Example], labels: LabelSet) -> list[tuple[str, Colour]]:
    """Name and colour of each class that occurs in a mask of the examples, void last."""
    masks = [mask for example in examples for mask in (example.truth, *example.predictions.values())]
    here = sorted({int(index) for mask in masks for index in np.unique(mask)})
    palette = class_palette(labels)
    return [
        ("void" if i == VOID else labels.names[i] if i < len(labels) else f"class {i}", palette[i])
        for i in here
    ]


def error_legend() -> list[tuple[str, Colour]]:
    """Name and colour of what an error map shows."""
    return [("correct", CORRECT), ("wrong", WRONG), ("void", UNKNOWN)]


def thumbnail(picture: Image.Image) -> Image.Image:
    """A small copy of a tile's picture: a photograph smoothed, a mask with nearest neighbour."""
    factor = min(1.0, THUMBNAIL / max(picture.size))
    width, height = (max(1, round(factor * side)) for side in picture.size)
    mask = picture.mode == "P"
    return picture.resize((width, height), Image.Resampling.NEAREST if mask else Image.Resampling.LANCZOS)


def few(examples: Sequence[Example], count: int) -> list[Example]:
    """The first `count` examples of each role, in their order."""
    roles: dict[str, list[Example]] = {}
    for example in examples:
        roles.setdefault(example.role, []).append(example)
    return [example for shown in roles.values() for example in shown[:count]]


def class_names_in(example: Example, labels: LabelSet) -> list[str]:
    """The classes in an example's truth, in the order of their indices."""
    return [labels.names[i] for i in np.unique(example.truth).tolist() if i < len(labels)]


def picture_url(picture: Image.Image) -> str:
    """A picture as a data: address, photographs as JPEG and masks losslessly as PNG."""
    buffer = io.BytesIO()
    if picture.mode == "P":
        picture.save(buffer, "PNG", optimize=True)
    else:
        picture.save(buffer, "JPEG", quality=86)
    kind = "png" if picture.mode == "P" else "jpeg"
    return data_url(buffer.getvalue(), f"image/{kind}")


def example_grid(examples: Sequence[Example], labels: LabelSet) -> Figure | None:
    """All examples in one figure, a row each, with a legend of the classes that occur."""
    if not examples:
        return None
    rows = [tiles(example, labels) for example in examples]
    columns = len(rows[0])
    heights = [row[0].picture.height / row[0].picture.width for row in rows]
    key = colour_legend(examples, labels)
    key += [(f"errors: {name}", tint) for name, tint in error_legend()[:2]]
    with figure_style():
        cell = WIDTH / columns
        height = sum(cell * h + 0.24 for h in heights) + 0.4 + 0.24 * (1 + len(key) // 6)
        figure = Figure(figsize=(WIDTH, height))
        panels = figure.subplots(len(rows), columns, squeeze=False, height_ratios=heights)
        for line, (example, row) in enumerate(zip(examples, rows, strict=True)):
            for axes, tile in zip(panels[line], row, strict=True):
                axes.imshow(np.asarray(tile.picture.convert("RGB")), interpolation="none")
                axes.set_xticks([])
                axes.set_yticks([])
                axes.grid(visible=False)
                axes.spines[:].set(visible=True, color=LINE)
                axes.set_xlabel(shorten(tile.caption), fontsize=7.5)
                if line == 0:
                    axes.set_title(shorten(tile.title), fontsize=8.5)
            panels[line, 0].set_ylabel(example.role, fontsize=8.5)
        patches = [
            Patch(facecolor=(r / 255, g / 255, b / 255), edgecolor=MUTED, linewidth=0.4)
            for _, (r, g, b) in key
        ]
        legend(figure, patches, [name for name, _ in key], ncols=6, fontsize=8)
    return figure


def _shown_size(shape: tuple[int, ...]) -> tuple[int, int]:
    """Width and height at which an H x W image is shown; small ones keep their size."""
    height, width = shape
    factor = min(1.0, LONG_SIDE / max(height, width))
    return max(1, round(width * factor)), max(1, round(height * factor))


def _indexed(mask: np.ndarray, palette: Sequence[Colour], size: tuple[int, int]) -> Image.Image:
    """A mask as a palette image, resized with nearest neighbour."""
    picture = Image.fromarray(mask.astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
    picture.putpalette([channel for tint in palette for channel in tint])
    return picture
