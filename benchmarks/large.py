"""Memory for a large image and for a video, and pixels that get another class where tiles meet.

    python benchmarks/large.py memory --side 20000 --tile 1024
    python benchmarks/large.py video pretrained/voc-animals-reference
    python benchmarks/large.py seams pretrained/voc-animals-reference path/to/photographs --tile 256

`memory` draws an uncompressed TIFF of SIDE x SIDE pixels and segments it with a network of one 1x1
convolution: what is left is what cutting, decoding and joining take. `video` draws clips of 24 and of 300
frames. `seams` counts the pixels whose class is not that of the whole image, for several fractions of the
overlap over which two tiles fade into each other.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from segdistill.data.images import list_images, read_image
from segdistill.exporting.parity import draw_images
from segdistill.inference import tiles
from segdistill.models.trained import load_network
from segdistill.profiling.process import WorkerProcess

MIB = 2**20
FRACTIONS = (0.0, 0.25, 0.5, 0.75, 1.0)
POINTWISE = "import torch\n\n\ndef network():\n    return torch.nn.Conv2d(3, 21, 1)\n"


def peak(target: str, path: Path, *options: str) -> str:
    """Peak memory of `segdistill predict`, in MiB: of its own process or the one that decodes, the larger."""
    command = [sys.executable, "-m", "segdistill.cli", "predict", target, str(path), *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return f"{used.ru_maxrss * 1024 / MIB:,.0f}"


class Drawing:
    """Draws in a process of its own, whose memory is nobody's concern."""

    def run(self, path: str, side: int) -> None:
        """Write an uncompressed TIFF of side x side pixels, one drawn square over and over."""
        square = draw_images(1, 500, 500, torch.Generator().manual_seed(0))[0].permute(1, 2, 0).numpy()
        count = -(-side // 500)
        Image.fromarray(np.tile(square, (count, count, 1))[:side, :side]).save(path)


def memory(options: argparse.Namespace, folder: Path, table: Table) -> None:
    """One row: what a large image takes."""
    (folder / "pointwise.py").write_text(POINTWISE)
    picture = folder / "large.tiff"
    with WorkerProcess(Drawing) as process:
        process.call("run", str(picture), options.side)
    network, out = f"{folder / 'pointwise.py'}:network", str(folder / "out")
    found = peak(network, picture, "--tile", str(options.tile), "--out", out)
    table.add_row(f"{options.side} x {options.side}", found)


def video(options: argparse.Namespace, folder: Path, table: Table) -> None:
    """One row for each length of a clip."""
    import av

    for count in (24, 300):
        path = folder / f"{count}.mp4"
        frames = draw_images(8, 240, 320, torch.Generator().manual_seed(0)).permute(0, 2, 3, 1).numpy()
        with av.open(str(path), "w") as file:
            stream = file.add_stream("libx264", rate=24)
            stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
            for number in range(count):
                file.mux(stream.encode(av.VideoFrame.from_ndarray(frames[number % 8], "rgb24")))
            file.mux(stream.encode())
        found = peak(options.target, path, "--mask_video", "true", "--out", str(folder / "out"))
        table.add_row(f"{count} frames", found)


def seams(options: argparse.Namespace, table: Table) -> None:
    """One row for each overlap."""
    network = load_network(options.target)
    found = list(list_images(Path(options.images)))[: options.count]
    pictures = [np.asarray(read_image(path)) for path in found]
    network.size = None
    whole = [tiles.segment_tiles(network, picture, 10**6, 0) for picture in pictures]
    pixels = sum(mask.size for mask in whole)
    for overlap in (64, 128):
        row = [f"{overlap}"]
        for fraction in FRACTIONS:
            tiles.FADE = fraction
            cut = [tiles.segment_tiles(network, picture, options.tile, overlap) for picture in pictures]
            other = sum(int((a != b).sum()) for a, b in zip(whole, cut, strict=True))
            row.append(f"{other / pixels:.2%}")
        table.add_row(*row)


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    large = verbs.add_parser("memory", help="of a large image")
    large.add_argument("--side", type=int, default=20_000)
    large.add_argument("--tile", type=int, default=1024)
    clips = verbs.add_parser("video", help="memory of a short and of a long video")
    clips.add_argument("target")
    where = verbs.add_parser("seams", help="pixels that get another class where tiles meet")
    where.add_argument("target")
    where.add_argument("images", help="a folder of images")
    where.add_argument("--count", type=int, default=4, help="images that are used")
    where.add_argument("--tile", type=int, default=256)
    options = parser.parse_args()
    columns = {
        "memory": ("image", "MiB"),
        "video": ("video", "MiB"),
        "seams": ("overlap", *(f"{fraction:.0%} faded" for fraction in FRACTIONS)),
    }
    table = Table()
    for column in columns[options.verb]:
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory() as folder:
        if options.verb == "seams":
            seams(options, table)
        else:
            {"memory": memory, "video": video}[options.verb](options, Path(folder), table)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
