"""`predict`, `load` and `serve`: the functions of `segdistill.api` that segment images.

They are apart because this module imports little: a prediction does not wait for what only training needs.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from segdistill.config.deploy import LoadConfig, PredictConfig, ServeConfig
from segdistill.config.keywords import with_keywords
from segdistill.config.prompts import PromptConfig
from segdistill.console import counted, log, progress
from segdistill.data.inputs import Camera, Source, find_inputs, is_video
from segdistill.data.pictures import Picture
from segdistill.engine.runtime import find_device, keep_freed_memory_on
from segdistill.exporting.fast import fast_file
from segdistill.inference.pipeline import Pipeline, Result, check_files
from segdistill.inference.prediction import Prediction
from segdistill.inference.segmenter import Segmenter
from segdistill.inference.video import count_frames
from segdistill.models.fused import fuse_students
from segdistill.models.trained import LoadOptions, TrainedNetwork, load_network, require_prompted


def predict(
    target: str | Path,
    paths: Picture | Sequence[Picture],
    config: PredictConfig | None = None,
    **settings: Any,
) -> Iterator[tuple[Path, Prediction]]:
    """Segment images and videos; masks and overlays go into `config.out`.

    Wrong arguments are refused at the call; images are read, segmented and written while the results are
    iterated over, under a progress bar in a terminal or a notebook.

    Args:
        target: a run folder, or any network spec.
        paths: an image file, a folder of images, a pattern such as `photos/**/*.jpg`, a video, "-" (one image
            from standard input), "camera:1", a PIL image, an array (H x W x 3 uint8 RGB), or a list of these.
        config: output folder, input size, ...
        settings: settings by name, `out="masks", size=512`; they win over `config`.

    Returns:
        An iterator over the mask file of each image and its prediction, in order; of a video or a camera,
        over the overlay video and each frame in turn. The mask of a picture in memory is `image_2.png`
        where it is the third one of the list; `load` segments pictures without writing files.

    Raises:
        FileNotFoundError: a path does not exist, or a folder holds no image.
        ValueError: settings do not go together, two images would get one name, or an array is no picture.
        segdistill.inference.pipeline.UnreadableFilesError: a `ValueError` after the last result, which names
            the files that could not be read; all others are done.
    """
    config = with_keywords(PredictConfig, config, settings)
    files = list(find_inputs(_several(paths)))
    check_files(files, config)
    device = find_device(config.device)
    keep_freed_memory_on(device)
    network = open_predictor(str(target), config, device)
    if config.probabilities:
        network.require_probabilities()
    sources = [source for source, _ in files]
    noun = "file" if all(isinstance(source, Path) for source in sources) else "input"
    log(f"Segmenting {counted(len(files), noun)} with {target} into {config.out}")
    if any(isinstance(source, Camera) for source in sources):
        log("Ctrl-C ends the camera's video, and saves it")
    return _with_bar(Pipeline(fuse_students(network), config, device).run(files), _count_results(sources))


def _several(given: Any) -> list[Any]:
    """What is named, as a list; one thing alone is in a list of its own."""
    single = isinstance(given, str | Path | Image.Image | np.ndarray) or not isinstance(given, Iterable)
    return [given] if single else list(given)


def _with_bar(results: Generator[Result, None, None], total: int | None) -> Iterator[Result]:
    """The results, counted by a bar; it moves with each of them only, for the caller may use the terminal."""
    with closing(results), progress(moving=False) as bar:
        task = bar.add_task("predict", total=total, unit="image")
        for done, result in enumerate(results, start=1):
            bar.update(task, completed=done, refresh=True)
            yield result


def _count_results(sources: Sequence[Source]) -> int | None:
    """Images, and frames of videos; None where nobody knows those of one."""
    counts = [count_frames(source) if is_video(source) else 1 for source in sources]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def load(target: str | Path, config: LoadConfig | None = None, **settings: Any) -> Segmenter:
    """A network that segments images in memory: `load(TARGET)(image).mask`.

    Args:
        target: a run folder, an exported file, or any network spec.
        config: input size, runtime, device, ...
        settings: settings by name, `size=512`; they win over `config`.

    Returns:
        What is called with an image (PIL, NumPy, or a path) and gives its `Prediction`; of a list of images
        it gives the list of their predictions, in order. See `Segmenter`.

    Raises:
        FileNotFoundError: a file or folder does not exist.
        ValueError: the target names nothing, or cannot be run as asked.
    """
    config = with_keywords(LoadConfig, config, settings)
    device = find_device(config.device)
    keep_freed_memory_on(device)
    network = fuse_students(open_predictor(str(target), config, device))
    return Segmenter(network, size=config.size, flip=config.flip, device=device)


def serve(
    target: str | Path,
    config: ServeConfig | None = None,
    *,
    ready: Callable[[str], None] = lambda url: None,
    **settings: Any,
) -> None:
    """Serve a network over HTTP until SIGINT or SIGTERM; requests that were admitted are still answered.

    Args:
        target: a run folder, an exported file or a built-in network; code is refused.
        config: address, limits, batching.
        ready: called with the server's URL once it listens.
        settings: settings by name, `port=8001`; they win over `config`.

    Raises:
        FileNotFoundError: a file or folder does not exist.
        ValueError: the target is code, the device or the runtime is not there, a file cannot be opened for
            `streams`, segdistill[serve] is not installed, or the system allows too few open files for
            `connections`.
        OSError: the address cannot be listened on.
    """
    config = with_keywords(ServeConfig, config, settings)
    try:
        from segdistill.serving.server import listen
        from segdistill.serving.service import Service, network_card, refuse_code
    except ModuleNotFoundError as error:
        raise ValueError(f"serve needs {error.name}: install segdistill[serve]") from None
    refuse_code(str(target))
    device = find_device(config.device)
    keep_freed_memory_on(device)
    network = open_predictor(str(target), config, device)
    card = network_card(network)  # of the network as it is: fusing changes the number of its parameters
    with Service(fuse_students(network), card, config, device) as service:
        listen(service, ready)


def open_predictor(target: str, config: LoadConfig | ServeConfig, device: torch.device) -> TrainedNetwork:
    """The network that segments images, on `device`; a run folder in the runtime that is asked for.

    Raises:
        FileNotFoundError, ValueError, OSError: see `load_network` and `fast_file`.
    """
    file = fast_file(target, config.runtime, config.precision, device)
    prompts = config if isinstance(config, PromptConfig) else None
    network = load_network(
        target if file is None else str(file),
        LoadOptions(
            precision=config.precision,
            output_stride=config.output_stride,
            prompts=prompts or PromptConfig(),
            provider=config.provider,
        ),
    )
    if prompts is not None:
        require_prompted([network], prompts)
    if file is not None:
        network.spec = target
    return network.to(device).to(memory_format=torch.channels_last)
