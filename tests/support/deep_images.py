"""Writes TIFF and PNG files that PIL does not: colours of 16 bits per channel, any number of channels."""

import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def tiff(
    path: Path, pixels: NDArray[np.generic], photometric: int = 2, tags: dict[int, list[int]] | None = None
) -> None:
    """Write H x W x C values as a TIFF with further `tags`; 259: [8] compresses them."""
    height, width, channels = pixels.shape
    data, bits = pixels.tobytes(), 8 * pixels.dtype.itemsize
    if tags and tags.get(259) == [8]:
        data = zlib.compress(data)
    tags = {
        **{256: [width], 257: [height], 258: [bits] * channels, 259: [1], 262: [photometric], 273: [0]},
        **{277: [channels], 278: [height], 279: [len(data)]},
        **(tags or {}),
    }
    start = 8 + 2 + 12 * len(tags) + 4
    long = {tag: struct.pack(f"<{len(v)}H", *v) for tag, v in tags.items() if len(v) > 2}
    tags[273] = [start + sum(map(len, long.values()))]
    entries, at = b"", start
    for tag, values in sorted(tags.items()):
        kind, form = (4, "I") if len(values) == 1 and tag in {273, 279} else (3, "H")
        field = struct.pack(f"<{len(values)}{form}", *values)
        if tag in long:
            field, at = struct.pack("<I", at), at + len(long[tag])
        entries += struct.pack("<HHI", tag, kind, len(values)) + field.ljust(4, b"\0")
    header = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + b"\0" * 4
    path.write_bytes(header + b"".join(long[tag] for tag in sorted(long)) + data)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(path: Path, pixels: NDArray[np.uint16], significant: int = 0) -> None:
    """Write H x W x C values as a PNG file of 16 bits per channel, perhaps with the chunk sBIT."""
    height, width, channels = pixels.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
        + (chunk(b"sBIT", bytes([significant] * channels)) if significant else b"")
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
