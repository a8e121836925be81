"""SHA-256 of a data set: whether two evaluations saw the same images and masks, under the same classes."""

import hashlib
import json

from segdistill.data.samples import Samples


def data_digest(samples: Samples) -> str:
    """SHA-256 over the class names and, of each sample in order, its id, its image file and its mask as read.

    The mask counts as it is read, for the same file means other classes where the data set's description
    merges some or leaves some out; and so do the `bits` of the image, where the description has them.

    Raises:
        FileNotFoundError, ValueError: a file has vanished, or a mask cannot be read.
    """
    digest = hashlib.sha256(json.dumps(samples.labels.names).encode())
    for index in range(len(samples)):
        files, mask = samples.files(index), samples.mask(index)
        image = hashlib.sha256(files.image.read_bytes()).hexdigest()
        facts = [files.id, image, list(mask.shape)] + [files.bits] * bool(files.bits)
        digest.update(json.dumps(facts).encode())
        digest.update(mask.numpy().tobytes())
    return digest.hexdigest()
