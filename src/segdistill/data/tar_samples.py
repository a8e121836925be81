"""Images without masks in tar files, as a data set that never holds more of them than one."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torchvision.transforms.v2 import functional as F

from segdistill.data.formats.tar import TarImage, TarIndex, split_name
from segdistill.data.images import TooLargeError, read_image
from segdistill.data.labels import VOID, LabelSet
from segdistill.data.masks import SampleFiles
from segdistill.data.samples import JoinedSamples, Sample, Samples


class TarSamples(Samples):
    """The images of one tar file, in its order; their ids are its name and their keys.

    Args:
        labels: what the masks would be of.
        index: of the tar file.
        name: that the ids begin with.
        bits: per channel, of images that have more than 8, see `read_image`.
    """

    def __init__(self, labels: LabelSet, index: TarIndex, name: str, bits: int | None = None) -> None:
        self.labels, self.index, self.name, self.bits = labels, index, name, bits

    @property
    def labelled(self) -> int:
        """None of them."""
        return 0

    def __len__(self) -> int:
        return len(self.index)

    def files(self, index: int) -> SampleFiles:
        """Id and place of one image."""
        image = TarImage(self.index, index)
        name = f"{self.name}/{split_name(image.member)[0]}"
        return SampleFiles(name, image, None, self.labels.void, bits=self.bits)

    def __getitem__(self, index: int) -> Sample:
        """Read one image.

        Raises:
            FileNotFoundError: the tar file has vanished, or has changed.
            ValueError: it is no image, is truncated or too large.
        """
        files = self.files(index)
        try:
            image = F.pil_to_tensor(read_image(files.image, self.bits))
        except TooLargeError:
            raise
        except ValueError as error:
            raise ValueError(f"{error}: write {self.index.tar} again without it") from None
        size = (image.shape[1], image.shape[2])
        return Sample(image, torch.full(size, VOID, dtype=torch.uint8), files.id, size)


def open_tars(tars: Sequence[Path], labels: LabelSet, bits: int | None = None) -> Samples:
    """The images of some tar files, one file after the other; `bits` as `read_image` has it.

    Raises:
        FileNotFoundError, ValueError: see `read_entries`.
    """
    common = Path(os.path.commonpath([path.absolute().parent for path in tars]))
    sets = [
        TarSamples(
            labels, TarIndex(path), path.absolute().relative_to(common).with_suffix("").as_posix(), bits
        )
        for path in tars
    ]
    tell_apart(sets)
    return sets[0] if len(sets) == 1 else JoinedSamples(sets)


def tell_apart(sets: Iterable[Samples]) -> None:
    """Put the names of folders in front of the ids of tar files that have one name.

    Args:
        sets: of several sources; those that are no tar files stay as they are.
    """
    shards = [one for samples in sets for one in _tar_sets(samples)]
    paths = {id(one): one.index.tar.absolute() for one in shards}
    while True:
        files: dict[str, set[Path]] = {}
        for one in shards:
            files.setdefault(one.name, set()).add(paths[id(one)])
        before = [one.name for one in shards]
        for one in shards:
            if len(files[one.name]) > 1:
                one.name = _longer_name(one.name, paths[id(one)])
        if before == [one.name for one in shards]:
            return


def _tar_sets(samples: Samples) -> list["TarSamples"]:
    sets = samples.sets if isinstance(samples, JoinedSamples) else [samples]
    return [one for one in sets if isinstance(one, TarSamples)]


def _longer_name(name: str, path: Path) -> str:
    """The name of a tar file with one folder more; that of its path where there is none."""
    parts = path.with_suffix("").parts
    wanted = len(name.split("/")) + 1
    return "/".join(parts[-wanted:]) if wanted < len(parts) else path.as_posix()
