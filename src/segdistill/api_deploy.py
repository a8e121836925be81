"""The verbs that bring a student elsewhere, as functions: `export`, `benchmark`, `serve`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from segdistill.api import open_evaluation
from segdistill.config import TrainConfig, load
from segdistill.config_deploy import BenchmarkConfig, ExportConfig, ServeConfig
from segdistill.data.datasets import open_training
from segdistill.deploy.export import SUFFIXES, calibration_images
from segdistill.deploy.export import export as export_network
from segdistill.deploy.side_by_side import measure
from segdistill.engine.history import progress, say
from segdistill.engine.run import CONFIG
from segdistill.engine.runtime import make_accelerator
from segdistill.models.card import is_run
from segdistill.models.trained import load_network


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
        if config.data.root or config.quantize:
            raise
        say(f"Mean IoU is not compared: {error}")
    images: list[Tensor] = []
    if config.quantize is not None:
        source = Path(config.calibration) if config.calibration else None
        if source is None and not is_run(spec):
            raise ValueError("name a folder of images to calibrate on with --calibration")
        seen = source or open_training(load(TrainConfig, Path(spec) / CONFIG).data)
        images = calibration_images(seen, config.calibration_images, network.size)
    return export_network(network, path, config, samples=samples, calibration=images) | {"file": str(path)}


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
    network, card = open_network(str(target), device)
    with Service(network, card, config, device) as service:
        listen(service, ready)
