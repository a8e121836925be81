"""The verbs that put a student to use, as functions: `predict`, `export`, `benchmark`, `serve`."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from segdistill.api import open_evaluation
from segdistill.config import TrainConfig, load
from segdistill.config_deploy import TILE, BenchmarkConfig, ExportConfig, PredictConfig, ServeConfig
from segdistill.data.datasets import Sample, open_training
from segdistill.data.images import read_image
from segdistill.deploy.export import SUFFIXES, calibration_images
from segdistill.deploy.export import export as export_network
from segdistill.deploy.predict import Prediction, find_images, write_image, write_prediction
from segdistill.deploy.predict import predict as predict_image
from segdistill.deploy.side_by_side import measure
from segdistill.deploy.tiles import needs_tiles, predict_tiles
from segdistill.deploy.video import SUFFIXES as VIDEOS
from segdistill.deploy.video import predict_video
from segdistill.engine.history import progress, say
from segdistill.engine.run import CONFIG
from segdistill.engine.runtime import make_accelerator
from segdistill.models.card import is_run
from segdistill.models.trained import TrainedNetwork, load_network


def predict(
    target: str | Path, paths: Sequence[str | Path], config: PredictConfig | None = None
) -> Iterator[tuple[Path, Prediction]]:
    """Segment image files, all images of folders, and videos; masks and overlays go into `config.out`.

    Args:
        target: a run folder, or any network spec.
        paths: files and folders.
        config: output folder, input size, ...

    Yields:
        The mask file of each image, and what was seen in it, in order; of a video the overlay video and each
        frame in turn.

    Raises:
        FileNotFoundError: a path does not exist, or a folder holds no image.
        ValueError: an image cannot be read, or two images would get one name.
    """
    config = config or PredictConfig()
    files = list(find_images(paths))
    for name, count in Counter(name for _, name in files).items():
        if count > 1:
            raise ValueError(f"two images are called {name}: predict them into different folders with --out")
    device = make_accelerator(config.device, "fp32").device
    network = load_network(str(target), precision=config.precision)
    network = network.to(device).to(memory_format=torch.channels_last)
    if config.probabilities and network.answers_masks:
        raise ValueError(
            f"{target} answers with masks: it has no probabilities (export it with --output logits)"
        )
    for path, name in files:
        if path.suffix.lower() in VIDEOS:
            if config.probabilities or config.flip or config.tile:
                raise ValueError(
                    f"{path} is a video, which goes with neither --probabilities, --flip nor --tile"
                )
            out = Path(config.out) / name
            frames = predict_video(
                network, path, out, size=config.size, masks=config.mask_video, device=device
            )
            yield from ((out.with_name(f"{name.name}_overlay.mp4"), frame) for frame in frames)
            continue
        if needs_tiles(path, network, config):
            yield _predict_large(network, path, Path(config.out) / name, config, device)
            continue
        prediction = predict_image(
            network, read_image(path), size=config.size, flip=config.flip,
            probabilities=config.probabilities, device=device,
        )  # fmt: skip
        yield (
            write_prediction(prediction, Path(config.out), name, probabilities=config.probabilities),
            prediction,
        )


def _predict_large(
    network: TrainedNetwork, path: Path, target: Path, config: PredictConfig, device: torch.device
) -> tuple[Path, Prediction]:
    """Segment one image tile by tile; its overlay is reduced to a size that can be looked at."""
    if config.probabilities or config.flip or config.size:
        raise ValueError(
            f"{path} is cut into tiles, which goes with neither --probabilities, --flip nor --size"
        )
    mask, reduced = predict_tiles(
        network,
        path,
        tile=config.tile or min(TILE, network.largest_side or TILE),
        overlap=config.overlap,
        scratch=Path(config.out),
        device=device,
    )
    file = target.with_name(f"{target.name}.png")
    file.parent.mkdir(parents=True, exist_ok=True)
    write_image(file, replace(reduced, mask=mask).palette_mask(), "PNG")
    write_image(target.with_name(f"{target.name}_overlay.jpg"), reduced.overlay(), "JPEG")
    return file, reduced


def export(target: str | Path, config: ExportConfig | None = None) -> dict[str, Any]:
    """Write a run as a file for another runtime, checked there against PyTorch.

    Args:
        target: a run folder, or any network spec that PyTorch runs.
        config: format, input and output of the file, limits, ...

    Returns:
        What the JSON file beside it holds, `parity` among it, and its path as `file`.

    Raises:
        FileNotFoundError: a file or folder does not exist.
        ValueError: it cannot be exported, or answers otherwise than PyTorch: no file is left behind.
    """
    config = config or ExportConfig()
    spec, suffix = str(target), SUFFIXES[config.format]
    if not config.out and not is_run(spec):
        raise ValueError(f"name the file with --out FILE{suffix}")
    path = Path(config.out) if config.out else Path(spec) / f"model{suffix}"
    if path.suffix != suffix:
        raise ValueError(f"out is {config.out!r}, but {config.format} files end with {suffix}")
    network = load_network(spec)
    if not any(True for _ in network.module.parameters()):
        raise ValueError(f"{spec} is not a network that PyTorch runs: export the run folder it was made from")
    samples = None
    try:
        found = open_evaluation(spec, config.data)
        samples = (found, found.labels)
    except (FileNotFoundError, ValueError) as error:
        if config.data.root:
            raise
        if config.quantize:
            raise ValueError(
                f"what 8 bits lose must be measured, and {spec} brings no images ({error}): "
                "name some that have masks with --data.root"
            ) from None
        say(f"Mean IoU is not compared ({error}): --data.root names images with masks")
    images: list[Tensor] = []
    if config.quantize is not None:
        images = calibration_images(
            _calibration_source(spec, config), config.calibration_images, network.size
        )
    return export_network(network, path, config, samples=samples, calibration=images) | {"file": str(path)}


def _calibration_source(spec: str, config: ExportConfig) -> Path | Dataset[Sample]:
    """The folder of images that settings name, else the training images of the run itself."""
    if config.calibration:
        return Path(config.calibration)
    if not is_run(spec):
        raise ValueError("name a folder of images to calibrate on with --calibration")
    try:
        return open_training(load(TrainConfig, Path(spec) / CONFIG).data)
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(
            f"{spec} brings no images to calibrate on ({error}): name a folder of images with --calibration"
        ) from None


def benchmark(targets: Sequence[str | Path], config: BenchmarkConfig | None = None) -> dict[str, Any]:
    """Measure run folders, exported files and networks of the zoo side by side.

    Args:
        targets: the first is what the others are compared with.
        config: forms, precisions, input, threads, repeats.

    Returns:
        See `segdistill.deploy.side_by_side.measure`.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: a target cannot be measured as asked.
    """
    config = config or BenchmarkConfig()
    with progress() as bar:
        task = bar.add_task("benchmark", total=config.warmup + config.repeats, numbers="")
        return measure([str(target) for target in targets], config, lambda: bar.advance(task))


def serve(
    target: str | Path, config: ServeConfig | None = None, *, ready: Callable[[str], None] = lambda url: None
) -> None:
    """Serve a network over HTTP until SIGINT or SIGTERM; what was accepted by then is still answered.

    Args:
        target: a run folder, or another network that is no code.
        config: address, limits, batching.
        ready: called with the server's URL once it listens.

    Raises:
        FileNotFoundError: a file or folder does not exist.
        ValueError: the target is code, the device is not there, or segdistill[serve] is not installed.
        OSError: the address cannot be listened on.
    """
    try:
        from segdistill.deploy.serve import Service, listen, open_network
    except ModuleNotFoundError as error:
        raise ValueError(f"serve needs {error.name}: install segdistill[serve]") from None
    config = config or ServeConfig()
    device = make_accelerator(config.device, "fp32").device
    network, card = open_network(str(target), device, config.precision)
    with Service(network, card, config, device) as service:
        listen(service, ready)
