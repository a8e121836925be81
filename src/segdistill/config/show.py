"""The settings of `segdistill data show`."""

from dataclasses import dataclass
from pathlib import Path

from segdistill.config.values import require

IMAGES = 12
"""Images on a sheet, unless another number is asked for."""
MOST_IMAGES = 300
"""Most images on a sheet: some 100 MB of memory."""


@dataclass(frozen=True, kw_only=True)
class ShowConfig:
    """What `segdistill data show` shows.

    Raises:
        ValueError: a value is impossible.
    """

    out: str
    """A .png or .html file, or a folder that gets sheet.png and index.html."""
    split: str | None = None
    """One split; null for train, or the first one where none has that name."""
    images: int = IMAGES
    """How many images are shown, at most; evenly chosen."""
    class_name: str | None = None
    """A class that each of the images has; null for any image."""

    def __post_init__(self) -> None:
        require(1 <= self.images <= MOST_IMAGES, "images", self.images, f"from 1 to {MOST_IMAGES}")
        suffix = Path(self.out).suffix.lower()
        require(
            suffix in {"", ".png", ".html"} or Path(self.out).is_dir(),
            "out", self.out, "a .png file, an .html file or a folder",
        )  # fmt: skip

    @property
    def files(self) -> list[Path]:
        """What is written."""
        out = Path(self.out)
        is_file = out.suffix.lower() in {".png", ".html"} and not out.is_dir()
        return [out] if is_file else [out / "sheet.png", out / "index.html"]
