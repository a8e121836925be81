"""Tar files of images: by webdataset's own writer, or member by member."""

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import webdataset


def write_shards(folder: Path, images: Mapping[str, bytes], each: int) -> Path:
    """JPEG files by key, in shards of `each` with a text beside each image, as webdataset writes them."""
    folder.mkdir(parents=True)
    pattern = (folder / "train-%03d.tar").as_posix()
    with webdataset.ShardWriter(pattern, maxcount=each, verbose=0) as writer:
        for key, content in images.items():
            writer.write({"__key__": key, "jpg": content, "txt": "a picture"})
    return folder


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    """One tar file of some members, in their order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path
