"""Fills the cache of decoded training images before training, by the loader's processes."""

from pathlib import Path

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, Dataset, Subset

from segdistill.config import DataConfig
from segdistill.data.datasets import ReducedSamples, Sample
from segdistill.data.decoded import DecodedSamples
from segdistill.data.loaders import ignore_stop_signals, plainly
from segdistill.engine.history import progress, say


def prepare(config: DataConfig, samples: Dataset[Sample], accelerator: Accelerator) -> Dataset[Sample]:
    """The training samples as training reads them: reduced, and from a cache, where `config` says so.

    Args:
        config: the long side, where the cache is, and how large it may become.
        samples: what `open_training` returned.
        accelerator: each of its processes decodes a share of what is missing.
    """
    if config.cache is None:
        return samples if config.long_side is None else ReducedSamples(samples, config.long_side)
    decoded = DecodedSamples(samples, config.long_side, Path(config.cache))
    share = range(accelerator.process_index, len(decoded), accelerator.num_processes)
    missing = decoded.missing(share)
    accelerator.wait_for_everyone()  # nobody writes while another still looks at what there is
    if missing:
        fill(decoded, missing, config, accelerator)
    accelerator.wait_for_everyone()
    decoded.cache.reload()
    kept = decoded.kept()
    if kept < len(decoded):
        say(f"{kept} of {len(decoded)} decoded images fit into data.cache_gb {config.cache_gb:g} of "
            f"{decoded.cache.folder}; the others are decoded each time", accelerator)  # fmt: skip
    return decoded


def fill(decoded: DecodedSamples, missing: list[int], config: DataConfig, accelerator: Accelerator) -> None:
    """Append the samples `missing` to this process's part, as far as there is room for them."""
    cache, rank, world = decoded.cache, accelerator.process_index, accelerator.num_processes
    with cache.writer(rank) as writer, progress(accelerator.is_main_process) as bar:
        cache.reload()  # another run may have filled the part while this one waited for it
        missing = decoded.missing(missing)
        used = sum(part.stat().st_size for part in cache.parts)
        room = (1e9 * config.cache_gb - used) / world
        if not missing or room <= 0:
            return
        say(
            f"Decoding {len(missing) * world} images once, into {cache.folder}, as far as they fit",
            accelerator,
        )
        loader = DataLoader(
            Subset(decoded, missing),
            batch_size=None,
            num_workers=config.workers,
            worker_init_fn=ignore_stop_signals,
            # The loader draws a seed for its workers: from a generator of its own, not from the global one.
            generator=torch.Generator().manual_seed(0),
        )
        task = bar.add_task("decode", total=len(missing), numbers="")
        for index, sample in zip(missing, plainly(loader), strict=True):
            taken = decoded.write(writer, index, sample, room)
            if not taken:
                break
            room -= taken
            bar.advance(task)
