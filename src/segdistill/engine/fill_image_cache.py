"""Fills the cache of decoded images ahead of training."""

from pathlib import Path

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, Subset

from segdistill.config.train import DataConfig
from segdistill.console import log, progress
from segdistill.data.cache.images import DecodedSamples
from segdistill.data.samples import Samples
from segdistill.data.worker import ignore_stop_signals, loader_processes, with_plain_errors


def open_image_cache(config: DataConfig, samples: Samples, accelerator: Accelerator) -> DecodedSamples:
    """The training samples, downscaled, from the cache of decoded images, filled.

    Args:
        config: the long side, where the cache is, and how large it may become.
        samples: at the size of their files.
        accelerator: each of its processes decodes a slice of what is missing.
    """
    assert config.cache is not None
    decoded = DecodedSamples(samples, config.long_side, Path(config.cache))
    own = range(accelerator.process_index, len(decoded), accelerator.num_processes)
    missing = decoded.missing(own)
    accelerator.wait_for_everyone()  # nobody writes while another still looks at what there is
    if missing:
        fill_image_cache(decoded, missing, config, accelerator)
    accelerator.wait_for_everyone()
    decoded.cache.reload()
    kept = decoded.kept()
    if kept < len(decoded):
        log(
            f"{kept} of {len(decoded)} decoded images fit into data.cache_gb {config.cache_gb:g} of "
            f"{decoded.cache.folder}; the others are decoded each time",
            accelerator,
        )
    return decoded


def fill_image_cache(
    decoded: DecodedSamples, missing: list[int], config: DataConfig, accelerator: Accelerator
) -> None:
    """Append the samples `missing` to this process's shard, as far as there is room for them."""
    cache, rank, world = decoded.cache, accelerator.process_index, accelerator.num_processes
    with cache.writer(rank) as writer, progress(accelerator.is_main_process) as bar:
        cache.reload()  # another run may have filled the shard while this one waited for it
        missing = decoded.missing(missing)
        room = (1e9 * config.cache_gb - cache.bytes) / world
        if not missing or room <= 0:
            return
        log(
            f"Decoding {len(missing) * world} images once, into {cache.folder}, as far as they fit",
            accelerator,
        )
        loader = DataLoader(
            Subset(decoded, missing),
            batch_size=None,
            num_workers=loader_processes(config.workers),
            worker_init_fn=ignore_stop_signals,
            generator=torch.Generator().manual_seed(0),  # from the global one it would change the training
        )
        task = bar.add_task("decode", total=len(missing), unit="image")
        for index, sample in zip(missing, with_plain_errors(loader), strict=True):
            taken = decoded.write(writer, index, sample, room)
            if not taken:
                break
            room -= taken
            bar.advance(task)
