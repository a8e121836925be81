"""Makes hostile image files: what a careless or malicious person could put into a data set."""

import io
import random
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

SIZE = (23, 17)


def encoded(mode: str, form: str, size: tuple[int, int] = SIZE, **options: object) -> bytes:
    """An image of noise."""
    generator = np.random.default_rng(len(mode) + len(form))
    if mode == "I;16":
        image = Image.fromarray(generator.integers(0, 65536, size[::-1], dtype=np.uint16))
    elif mode == "F":
        image = Image.fromarray(generator.random(size[::-1], dtype=np.float32))
    else:
        image = Image.fromarray(generator.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, form, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def whole() -> dict[str, bytes]:
    """Good but unusual files by name."""
    transparent = bytes(range(256))
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [Image.new("RGB", SIZE, (40 * n, 0, 0)) for n in range(4)]
    files = {
        "rgb.jpg": encoded("RGB", "JPEG"),
        "cmyk.jpg": encoded("CMYK", "JPEG"),
        "progressive.jpg": encoded("RGB", "JPEG", progressive=True),
        "exif.jpg": encoded("RGB", "JPEG", exif=exif),
        "rgb.png": encoded("RGB", "PNG"),
        "16.png": encoded("I;16", "PNG"),
        "palette.png": encoded("P", "PNG", transparency=transparent),
        "la.png": encoded("LA", "PNG"),
        "1.png": encoded("1", "PNG"),
        "rgb.webp": encoded("RGBA", "WEBP"),
        "rgb.bmp": encoded("RGB", "BMP"),
        "p.gif": encoded("P", "GIF"),
        "rgb.ppm": encoded("RGB", "PPM"),
        "rgb.tif": encoded("RGB", "TIFF"),
        "float.tif": encoded("F", "TIFF"),
        "cmyk.tif": encoded("CMYK", "TIFF", compression="tiff_lzw"),
        "deflated.tif": encoded("I;16", "TIFF", compression="tiff_adobe_deflate"),
    }
    for form in ("GIF", "PNG", "WEBP"):
        buffer = io.BytesIO()
        frames[0].save(buffer, form, save_all=True, append_images=frames[1:])
        files[f"animated.{form.lower()}"] = buffer.getvalue()
    return files


def png(width: int, height: int, data: bytes, depth: int = 8, colour: int = 0) -> bytes:
    """A PNG file whose header may lie about what is in it."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def looping_exif() -> bytes:
    """A JPEG whose EXIF directory names itself as its next one, and as its own sub-directory."""
    entries = struct.pack("<HHII", 0x8769, 4, 1, 8) + struct.pack("<HHII", 0x0112, 3, 1, 6)
    tiff = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 2) + entries + struct.pack("<I", 8)
    return encoded("RGB", "JPEG", exif=b"Exif\0\0" + tiff)


def crafted() -> dict[str, bytes]:
    """Files made to hurt."""
    stripe = zlib.compress(bytes(100_001) * 1)
    tall = zlib.compress(b"\0\0" * 100_000)
    text = zlib.compress(bytes(2**28))
    body = b"Comment\0\0" + text
    bomb = png(8, 8, zlib.compress(bytes(9 * 8)))
    chunk = struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    return {
        "wide.png": png(100_000, 1, stripe),
        "tall.png": png(1, 100_000, tall),
        "huge.png": png(2**31 - 1, 2**31 - 1, b""),
        "large.png": png(30_000, 30_000, zlib.compress(bytes(2**20))),
        "warned.png": png(10_000, 10_000, zlib.compress(bytes(2**20))),
        "bomb.png": png(64, 64, zlib.compress(bytes(2**26))),
        "text bomb.png": bomb[:33] + chunk + bomb[33:],
        "no size.png": png(0, 0, b""),
        "odd depth.png": png(8, 8, b"", depth=3, colour=6),
        "loop.jpg": looping_exif(),
        "postscript.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) show\n",
        "huge.gif": b"GIF89a" + struct.pack("<HH", 65535, 65535) + bytes(3) + b"," + bytes(4)
        + struct.pack("<HH", 65535, 65535) + b"\0\x08\x00;",
        "huge.bmp": b"BM" + bytes(8) + struct.pack("<IIiiHHI", 54, 40, 2**30, 2**30, 1, 24, 0) + bytes(24),
        "huge.ppm": b"P6 999999999 999999999 255\n",
        "huge.webp": b"RIFF" + struct.pack("<I", 30) + b"WEBPVP8X" + struct.pack("<II", 10, 0) + b"\xff" * 6,
    }  # fmt: skip


def hostile(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """`count` files: all good and crafted ones first, then mutations: cuts, wrong bytes, magic and noise."""
    files = whole()
    first = [*crafted().items(), *files.items()]
    yield from first[:count]
    draw = random.Random(seed)
    names = list(files)
    cuts = [(name, end) for name in names for end in range(min(64, len(files[name])))]
    for number in range(count - len(first)):
        kind = number % 4
        name = draw.choice(names)
        data = bytearray(files[name])
        if kind == 0:
            name, end = cuts[(number // 4 * 7) % len(cuts)]
            data = bytearray(files[name][:end])
        elif kind == 1:  # in the header, where sizes and offsets are
            for _ in range(draw.randint(1, 4)):
                data[draw.randrange(min(120, len(data)))] = draw.choice(
                    [0, 1, 127, 128, 255, draw.randrange(256)]
                )
        elif kind == 2:
            for _ in range(draw.randint(1, 30)):
                data[draw.randrange(8, len(data))] = draw.randrange(256)
            del data[draw.randrange(len(data)) : draw.randrange(len(data))]
        else:
            data = bytearray(
                data[: draw.choice([2, 4, 8, 12, 16, 26])] + draw.randbytes(draw.randint(0, 400))
            )
        yield f"{number}-{name}", bytes(data)
