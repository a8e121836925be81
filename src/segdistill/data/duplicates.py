"""Finds images of one split that are in another one, too: the same pixels, or nearly the same."""

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

SIDE = 8
"""Rows and columns of brightness differences in a perceptual hash."""
BITS = 2 * SIDE * SIDE
"""Bits of a perceptual hash."""
NEAR = 12
"""Most bits, of `BITS`, in which near-duplicates differ. Of 150 photographs of VOC all had 10 or less after
they were halved and saved as JPEG of quality 40; of 300 others none is nearer than 21 to one of 3,131."""
FLAT = 6.0
"""Standard deviation of brightness, 0 to 255, below which a picture is too plain to be told from others."""
CHUNK = 256
"""Images that are compared with all of the other split at a time."""


class Fingerprint(NamedTuple):
    """What one image is recognised by."""

    id: str
    file: str
    """Where the image is."""
    digest: bytes
    """Of the size and the decoded pixels."""
    bits: bytes | None
    """Perceptual hash of `BITS` bits; None for a plain picture."""


class Duplicate(NamedTuple):
    """An image that another split has, too."""

    id: str
    other: str
    """Id in the other split."""
    distance: int | None
    """Bits in which their perceptual hashes differ; None where the pixels are equal."""


def fingerprint(name: str, file: str, image: Tensor) -> Fingerprint:
    """What a 3 x H x W uint8 image is recognised by."""
    pixels = image.permute(1, 2, 0).contiguous().numpy()
    digest = blake2b(pixels.tobytes(), digest_size=16, key=str(pixels.shape).encode()).digest()
    return Fingerprint(name, file, digest, difference_hash(Image.fromarray(pixels)))


def difference_hash(picture: Image.Image) -> bytes | None:
    """Whether brightness grows to the right, and downwards, at 8 x 8 places; None for a plain picture.

    This is dHash (Krawetz 2013, "Kind of Like That") in both directions. It hardly changes when a picture is
    resized, compressed anew, or made brighter.
    """
    small = picture.convert("L").resize((SIDE + 1, SIDE + 1), Image.Resampling.BOX)
    values = np.asarray(small, dtype=np.int16)
    if values.std() < FLAT:
        return None
    right = values[:-1, 1:] > values[:-1, :-1]
    down = values[1:, :-1] > values[:-1, :-1]
    return np.packbits([right, down]).tobytes()


def find_duplicates(images: Sequence[Fingerprint], others: Sequence[Fingerprint]) -> Iterator[Duplicate]:
    """Each image that is among the others, with the one it is most like; the same file is none."""
    equal = {other.digest: other for other in others}
    plain = [other for other in others if other.bits is not None]
    other_words = _words(plain)
    for first in range(0, len(images), CHUNK):
        chunk = images[first : first + CHUNK]
        hashed = [image for image in chunk if image.bits is not None and image.digest not in equal]
        distances = np.bitwise_count(_words(hashed)[:, None] ^ other_words).sum(axis=2, dtype=np.int64)
        rows = {image.id: row for image, row in zip(hashed, distances, strict=True)}
        for image in chunk:
            if image.digest in equal:
                other = equal[image.digest]
                if other.file != image.file:
                    yield Duplicate(image.id, other.id, None)
            elif plain and image.id in rows:
                nearest = int(rows[image.id].argmin())
                if (distance := int(rows[image.id][nearest])) <= NEAR:
                    yield Duplicate(image.id, plain[nearest].id, distance)


def _words(images: Sequence[Fingerprint]) -> NDArray[np.uint64]:
    """N x 2: the bits of N images."""
    joined = b"".join(image.bits or b"" for image in images)
    return np.frombuffer(joined, dtype=np.uint64).reshape(-1, BITS // 64)
