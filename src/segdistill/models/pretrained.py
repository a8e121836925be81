"""Published weights for the encoder of a fresh student, downloaded or from a file.

A file's tensors are matched by name; where names differ, as between two libraries' versions of one network,
by their order and shapes.
"""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torchvision
from torch import Tensor, nn

from segdistill.config.architecture import Architecture
from segdistill.config.naming import setting
from segdistill.config.values import require
from segdistill.models.huggingface import HuggingFaceNetwork, load_published
from segdistill.models.spec import NetworkSpec, parse_architecture
from segdistill.models.state_files import read_state

PREFIXES = ("", "encoder.", "backbone.", "features.", "module.", "model.")
"""What the names of an encoder's tensors may begin with in a file."""
IMAGENET = "imagenet"
PUBLISHED = "published"


def load_pretrained(network: nn.Module, architecture: Architecture, weights: str) -> str:
    """Give a fresh network the weights of its encoder, or of all of it.

    Args:
        network: of `architecture`, changed in place.
        architecture: what it is.
        weights: `imagenet`, or `published` of an `hf:` network, or a state dict of the encoder or of the
            whole network.

    Returns:
        What was loaded, in a line.

    Raises:
        ValueError: there are none, they do not fit, or they could not be downloaded: then it says which file
            to bring.
        FileNotFoundError: the file does not exist.
    """
    spec = parse_architecture(architecture.spec)
    if weights == PUBLISHED:
        allowed = f"{IMAGENET} or a file for {spec.text}: only hf: networks are published whole"
        require(spec.kind == "hf", "student.weights", weights, allowed)
        assert isinstance(network, HuggingFaceNetwork)
        fresh = load_published(network, spec.architecture)
        but = f", but for {len(fresh)} tensors from {fresh[0]} on, which start from scratch" if fresh else ""
        return f"The student starts from the weights of {spec.text}{but}"
    if weights == IMAGENET:
        how = load_encoder(find_encoder(network), download(spec), f"the published weights of {spec.text}")
        return f"The encoder starts from the published weights of {spec.text}, matched by {how}"
    state = read_state(Path(weights))
    if _fits(network.state_dict(), state):
        network.load_state_dict(state, strict=False)
        return f"The student starts from {weights}"
    how = load_encoder(find_encoder(network), state, weights)
    return f"The encoder starts from {weights}, matched by {how}"


def find_encoder(network: nn.Module) -> nn.Module:
    """The part of a network that published weights are for: its `encoder` or `backbone`, else all of it."""
    inner = getattr(network, "inner", network)
    for name in ("encoder", "backbone"):
        part = getattr(inner, name, None)
        if isinstance(part, nn.Module) and not isinstance(part, nn.ModuleList):
            return part
    return network


def load_encoder(encoder: nn.Module, state: Mapping[str, Tensor], source: str) -> str:
    """Load a state dict that has all tensors of an encoder, and perhaps those of a classifier after them.

    Returns:
        What they were matched by.

    Raises:
        ValueError: it has not.
    """
    wanted = encoder.state_dict()
    for prefix in PREFIXES:
        own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        if _fits(wanted, own):
            encoder.load_state_dict({name: own[name] for name in wanted if name in own}, strict=False)
            return "name"
    named = {name: value for name, value in wanted.items() if not name.endswith("num_batches_tracked")}
    values = [value for name, value in state.items() if not name.endswith("num_batches_tracked")]
    pairs = list(zip(named.items(), values, strict=False))
    if len(values) >= len(named) and all(own.shape == given.shape for (_, own), given in pairs):
        encoder.load_state_dict({name: given for (name, _), given in pairs}, strict=False)
        return "order (their names differ, all shapes are alike)"
    raise ValueError(
        f"{source} does not fit the encoder: it has {len(values)} tensors, the encoder {len(named)}, and "
        "neither their names nor their shapes in order are alike"
    )


def _fits(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> bool:
    """Whether `given` has every tensor by name and shape; counts of batches may be missing."""
    names = [name for name in wanted if not name.endswith("num_batches_tracked")]
    return all(name in given and given[name].shape == wanted[name].shape for name in names)


def download(spec: NetworkSpec, name: str = "student.weights") -> Mapping[str, Tensor]:
    """The state dict that a library publishes for the encoder of a network.

    Args:
        spec: of the network.
        name: of the setting that names a file instead, for errors.

    Raises:
        ValueError: nobody publishes one, or it could not be downloaded.
    """
    option = setting(name)
    if spec.kind not in SOURCES:
        value = PUBLISHED if spec.kind == "hf" else "FILE"
        raise ValueError(
            f"nobody publishes weights for {spec.text}'s encoder alone: name others with {option} {value}, "
            f"or a run to start from with {setting('init')} RUN"
        )
    return SOURCES[spec.kind](spec, option)


def _download_timm(spec: NetworkSpec, option: str) -> Mapping[str, Tensor]:
    timm = importlib.import_module("timm")
    try:
        return timm.create_model(spec.encoder, pretrained=True).state_dict()
    except RuntimeError as error:  # it has none
        raise ValueError(f"timm has no weights for {spec.encoder}: {error}") from None
    except Exception as error:  # the hub's libraries raise whatever their HTTP client does
        config: Any = timm.get_pretrained_cfg(spec.encoder)
        page = f"https://huggingface.co/{config.hf_hub_id or f'timm/{spec.encoder}'}"
        raise ValueError(
            f"the weights of timm:{spec.encoder} could not be downloaded ({type(error).__name__}). Download "
            f"model.safetensors of {page} elsewhere and name the file with {option} FILE"
        ) from None


def _download_torchvision(spec: NetworkSpec, option: str) -> Mapping[str, Tensor]:
    backbone = spec.architecture.split("_", 1)[1]
    published = torchvision.models.get_model_weights(backbone).DEFAULT
    try:
        state = published.get_state_dict(progress=False, check_hash=True)
    except (URLError, OSError) as error:
        raise ValueError(
            f"the weights of {backbone} could not be downloaded ({error}). Download {published.url} "
            f"elsewhere and name the file with {option} FILE"
        ) from None
    return state


def _download_smp(spec: NetworkSpec, option: str) -> Mapping[str, Tensor]:
    smp = importlib.import_module("segmentation_models_pytorch")
    encoder = spec.encoder or "resnet34"
    try:
        return smp.encoders.get_encoder(encoder, weights=IMAGENET).state_dict()
    except KeyError as error:
        raise ValueError(f"{spec.text}: {error.args[0]}") from None
    except Exception as error:  # as above
        raise ValueError(
            f"the weights of {encoder} could not be downloaded ({type(error).__name__}). Download "
            f"model.safetensors of https://huggingface.co/smp-hub/{encoder}.imagenet elsewhere and name the "
            f"file with {option} FILE"
        ) from None


SOURCES = {"timm": _download_timm, "torchvision": _download_torchvision, "smp": _download_smp}
"""What downloads the weights of each kind of spec."""
