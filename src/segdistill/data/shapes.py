"""The embedded data set: textured shapes on textured grounds, drawn on the spot, written as a VOC devkit.

As in photographs, colour is a hint and no proof: a shape's colour scatters widely around one of its class,
the ground and the textures have any. A network soon learns the hint; to be right it must learn the outlines.
"""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from segdistill.data.formats.layout import dump_description
from segdistill.data.formats.voc import DEVKIT, IMAGES, LISTS, MASKS
from segdistill.data.labels import VOID, LabelSet

Field = NDArray[np.float32]

SHAPES = LabelSet(
    names=("background", "disk", "ring", "square", "triangle", "star", "cross", "crescent", "ellipse"),
    palette=(
        (0, 0, 0),
        (230, 25, 75),
        (255, 225, 25),
        (0, 130, 200),
        (60, 180, 75),
        (245, 130, 48),
        (145, 30, 180),
        (70, 240, 240),
        (240, 50, 230),
    ),
)

DRAWING = 2  # raised whenever `draw` changes its pixels, so that an old folder is not taken for a new one
SUPERSAMPLING = 4
RADIUS = (0.12, 0.35)  # of the image's side
CONTRAST = 100.0  # least RGB distance (0 to 441) between the base colours of a shape and of what it covers
SCATTER = 45.0  # standard deviation of each channel of a shape's colour around the colour of its class
AMPLITUDE = 35.0  # most RGB distance of a texture from its base colour: twice this stays below CONTRAST
VISIBLE = 0.4  # fraction of each shape that the later ones should leave in sight
TEXTURES = ("stripes", "checks", "dots", "noise", "gradient", "plain")


def write_shapes(root: Path, *, seed: int = 0, train: int = 600, val: int = 150, size: int = 128) -> Path:
    """Draws the data set into `root` unless it is there already.

    Images 0 to train - 1 are the split "train", the next `val` are the split "val". `root/shapes.json` holds
    the arguments and is written last, so a folder without it is unfinished and is drawn again.

    Args:
        root: folder that gets `VOCdevkit/VOC2012` and `shapes.json`.
        seed: 0 or more; each image is a function of (seed, its index, size).
        train: images of the split "train", 1 or more.
        val: images of the split "val", 1 or more.
        size: side of the square images in pixels, 32 or more.

    Returns:
        The devkit folder `root/VOCdevkit/VOC2012`.

    Raises:
        ValueError: an argument is out of range, `root` was drawn with other arguments, or it holds a devkit
            that is not this data set.
    """
    wanted = {"seed": seed, "train": train, "val": val, "size": size, "drawing": DRAWING}
    for name, least in {"seed": 0, "train": 1, "val": 1, "size": 32}.items():
        if wanted[name] < least:
            raise ValueError(f"{name} is {wanted[name]}, but must be {least} or more")
    devkit, mark = root / DEVKIT, root / "shapes.json"
    if mark.exists():
        _refuse_other(mark, wanted)
        return devkit
    images, masks, lists = (devkit / path for path in (IMAGES, MASKS, LISTS))
    _refuse_foreign(images)
    for folder in (images, masks, lists):
        folder.mkdir(parents=True, exist_ok=True)
    (devkit / "dataset.yaml").write_text(dump_description(SHAPES.to_dict()))
    ids = [f"shape_{index:06d}" for index in range(train + val)]
    for index, name in enumerate(ids):
        image, mask = draw(seed, index, size)
        image.save(images / f"{name}.jpg", quality=92)
        mask.save(masks / f"{name}.png")
    for split, members in {"train": ids[:train], "val": ids[train:]}.items():
        (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in members))
    partial = mark.with_suffix(".json.partial")
    partial.write_text(json.dumps(wanted) + "\n")
    partial.replace(mark)
    return devkit


def _refuse_other(mark: Path, wanted: dict[str, int]) -> None:
    """Raises `ValueError` if the finished folder of `mark` was drawn with other arguments."""
    try:
        found = json.loads(mark.read_text())
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{mark} is not readable as JSON: delete the folder {mark.parent} or choose another")
    differing = [f"{k} is {found.get(k)}, not {v}" for k, v in wanted.items() if found.get(k) != v]
    if differing:
        raise ValueError(
            f"{mark.parent} already holds shapes drawn with other arguments ({'; '.join(differing)}): "
            "choose another folder, delete that one, or ask for the arguments it was drawn with"
        )


def _refuse_foreign(images: Path) -> None:
    """Raises `ValueError` if `images` holds anybody else's images, whose split lists would be overwritten."""
    foreign = next((path for path in images.glob("*") if not path.name.startswith("shape_")), None)
    if foreign is not None:
        raise ValueError(
            f"{images} holds another data set ({foreign.name}): choose another folder for shapes"
        )


def draw(seed: int, index: int, size: int) -> tuple[Image.Image, Image.Image]:
    """One image and its mask, a pure function of the arguments.

    Returns:
        The image, "RGB", and its mask, "P" with indices 0 to 8 and 255 = void; both size x size pixels.
    """
    rng = np.random.default_rng((seed, index))
    bases = [rng.uniform(30, 225, 3)]
    picture = _texture(rng, bases[0], size)
    instances = np.zeros((size, size), np.uint8)  # 0 is the ground, i the i-th shape
    labels = [0]
    areas = [0]
    for instance in range(1, 1 + int(rng.integers(2, 6))):
        label = int(rng.integers(1, len(SHAPES)))
        coverage = _place(rng, SHAPES.names[label], instances, areas)
        covered = coverage >= 0.5
        beneath = np.unique(instances[coverage > 0])
        bases.append(_colour(rng, label, np.stack([bases[i] for i in beneath])))
        picture += coverage[..., None] * (_texture(rng, bases[-1], size) - picture)
        instances[covered] = instance
        labels.append(label)
        areas.append(int(covered.sum()))
    return _photograph(rng, picture), _mask(instances, labels)


def _place(rng: np.random.Generator, name: str, instances: NDArray[np.uint8], areas: list[int]) -> Field:
    """Coverage (H x W, 0 to 1) of a shape at a random place that leaves the earlier ones in sight.

    In a crowded image the eighth try is taken as it is: a hidden shape is still labelled right.
    """
    size = len(instances)
    for _ in range(8):
        radius = rng.uniform(*RADIUS) * size
        centre = rng.uniform(0.08, 0.92, 2) * size
        coverage = _coverage(rng, name, centre, radius, size)
        left = np.bincount(instances[coverage < 0.5], minlength=len(areas))
        if all(left[i] >= VISIBLE * areas[i] for i in range(1, len(areas))):
            break
    return coverage


def _coverage(
    rng: np.random.Generator, name: str, centre: NDArray[np.float64], radius: float, size: int
) -> Field:
    """Fraction of each pixel (H x W, 0 to 1) under the randomly turned shape; centre and radius in pixels."""
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    fine = Image.new("L", (size * SUPERSAMPLING, size * SUPERSAMPLING))
    pen = ImageDraw.Draw(fine)
    for fill, points in zip((255, 0), _outline(rng, name), strict=False):
        corners = (points @ turn * radius + centre) * SUPERSAMPLING
        pen.polygon([(float(x), float(y)) for x, y in corners], fill=fill)
    return np.asarray(fine.reduce(SUPERSAMPLING), np.float32) / np.float32(255)


def _outline(rng: np.random.Generator, name: str) -> list[NDArray[np.float64]]:
    """The polygon of a shape of radius 1 and, where it has one, the polygon cut out of it; each n x 2."""

    def corners(count: int) -> NDArray[np.float64]:
        angles = np.arange(count) * 2 * np.pi / count
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)

    match name:
        case "disk":
            return [0.85 * corners(72)]
        case "ring":
            return [corners(72), rng.uniform(0.5, 0.65) * corners(72)]
        case "square":
            return [corners(4)]
        case "triangle":
            return [corners(3)]
        case "star":
            radii = np.where(np.arange(10) % 2, rng.uniform(0.4, 0.5), 1.0)
            return [corners(10) * radii[:, None]]
        case "cross":
            a = rng.uniform(0.24, 0.34)
            arm = np.array([[1, -a], [1, a], [a, a]])
            quarter = np.array([[0.0, 1.0], [-1.0, 0.0]])
            return [np.concatenate([arm @ np.linalg.matrix_power(quarter, k) for k in range(4)])]
        case "crescent":
            return [corners(72), 0.85 * corners(72) + [rng.uniform(0.45, 0.6), 0]]
        case "ellipse":
            return [corners(72) * [1, rng.uniform(0.4, 0.6)]]
    raise AssertionError(f"no outline for {name}")


def _colour(rng: np.random.Generator, label: int, beneath: NDArray[np.float64]) -> NDArray[np.float64]:
    """A colour for a shape (3 values, 0 to 255), CONTRAST or more away from each of the n x 3 beneath.

    Random candidates keep the choice unbiased. The cube's corners behind them make sure that there is one:
    they lie more than 2 CONTRAST apart, so a colour beneath rules out one corner at most, and n is at most 5.
    """
    corner = np.array([[r, g, b] for r in (10, 245) for g in (10, 245) for b in (10, 245)], np.float64)
    scattered = rng.normal(SHAPES.palette[label], SCATTER, (64, 3)).clip(20, 235)
    candidates = np.concatenate([scattered, corner])
    distance = np.linalg.norm(candidates[:, None] - beneath[None], axis=2).min(axis=1)
    return candidates[np.argmax(distance >= CONTRAST)]


def _texture(rng: np.random.Generator, base: NDArray[np.float64], size: int) -> Field:
    """A texture around the base colour, H x W x 3, 0 to 255 give or take AMPLITUDE."""
    direction = rng.normal(size=3)
    swing = direction / np.linalg.norm(direction) * rng.uniform(0.6, 1) * AMPLITUDE
    pattern = _pattern(rng, TEXTURES[rng.integers(len(TEXTURES))], size)
    return base.astype(np.float32) + pattern[..., None] * swing.astype(np.float32)


def _pattern(rng: np.random.Generator, kind: str, size: int) -> Field:
    """The named pattern at a random scale, direction and offset: H x W, -1 to 1."""
    angle, period = rng.uniform(0, 2 * np.pi), rng.uniform(0.05, 0.16) * size
    offset = rng.uniform(0, 1, 2)
    y, x = np.mgrid[:size, :size].astype(np.float32)
    u = (x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))) / np.float32(period)
    v = (y * np.float32(np.cos(angle)) - x * np.float32(np.sin(angle))) / np.float32(period)
    a = np.sin(2 * np.pi * (u + offset[0])).astype(np.float32)
    b = np.sin(2 * np.pi * (v + offset[1])).astype(np.float32)
    match kind:  # a steep slope clipped to -1 and 1 is a square wave with soft edges
        case "stripes":
            return np.clip(3 * a, -1, 1)
        case "checks":
            return np.clip(6 * a * b, -1, 1)
        case "dots":
            return np.clip(4 * (a + b - 0.9), -1, 1)
        case "noise":
            return _smooth_noise(rng, int(rng.integers(5, 17)), size)
        case "gradient":
            return np.asarray(2 * (u - u.min()) / (u.max() - u.min()) - 1, np.float32)
        case "plain":
            return rng.uniform(-0.4, 0.4, (size, size)).astype(np.float32)
    raise AssertionError(f"no texture {kind}")


def _smooth_noise(rng: np.random.Generator, cells: int, size: int) -> Field:
    """Random values on a cells x cells grid, smoothly upsampled to H x W, -1 to 1."""
    grid = Image.fromarray(rng.uniform(-1, 1, (cells, cells)).astype(np.float32))
    return np.clip(1.5 * np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC)), -1, 1)


def _photograph(rng: np.random.Generator, picture: Field) -> Image.Image:
    """The H x W x 3 picture under uneven light, through a soft lens, onto a noisy sensor."""
    size = len(picture)
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.3)
    ramp = np.linspace(-1, 1, size, dtype=np.float32)
    light = 1 + np.float32(strength) * (
        np.float32(np.cos(angle)) * ramp[None] + np.float32(np.sin(angle)) * ramp[:, None]
    )
    lit = Image.fromarray(np.clip(picture * light[..., None], 0, 255).astype(np.uint8))
    soft = lit.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.8) * size / 128))
    noise = rng.standard_normal(picture.shape, dtype=np.float32) * np.float32(rng.uniform(2, 8))
    return Image.fromarray(np.clip(np.asarray(soft, np.float32) + noise, 0, 255).astype(np.uint8))


def _mask(instances: NDArray[np.uint8], labels: list[int]) -> Image.Image:
    """The "P" mask of an H x W map of instances, whose classes are `labels`, with a void band at outlines."""
    mask = np.array(labels, np.uint8)[instances]
    # The band is between instances, not classes, so that two overlapping disks stay two.
    window = 2 * max(1, round(len(instances) / 128)) + 1
    outlines = Image.fromarray(instances)
    highest = np.asarray(outlines.filter(ImageFilter.MaxFilter(window)))
    lowest = np.asarray(outlines.filter(ImageFilter.MinFilter(window)))
    mask[highest != lowest] = VOID
    image = Image.fromarray(mask, "L")
    image.putpalette(SHAPES.file_palette)
    return image
