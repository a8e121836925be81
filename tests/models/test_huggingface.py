"""Networks of Hugging Face: what the library's own post-processing gives, from tiny networks of each kind."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

import tiny_transformers as tiny
from tiny_transformers import picture, to_pil

from segdistill.config.architecture import Architecture
from segdistill.data.transforms import normalise
from segdistill.models.huggingface import HuggingFaceNetwork, class_names
from segdistill.models.mask_queries import FLOOR
from segdistill.models.pretrained import load_pretrained
from segdistill.models.recorded import rebuild
from segdistill.models.trained import load_network
from segdistill.models.zoo import build_model, input_statistics

pytestmark = pytest.mark.unit

SIZES = {
    "segformer": (64, 64), "upernet": (64, 64), "beit": (64, 64), "dpt": (64, 64), "mobilevit": (64, 80),
    "mobilenet": (64, 80), "maskformer": (64, 96), "mask2former": (384, 384), "oneformer": (64, 96),
    "eomt": (64, 64), "detr": (64, 96),
}  # fmt: skip
"""Of images that the processors leave as they are: how they resize others is none of the networks' doing."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("hf")
    return {kind: tiny.save(kind, root / kind) for kind in SIZES}


@pytest.fixture
def folder(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of SegFormer's folder to spoil."""
    return shutil.copytree(folders["segformer"], tmp_path / "copy")


@torch.no_grad()
def library(kind: str, image: torch.Tensor) -> tuple[torch.Tensor, Any]:
    """The library's own input, and its mask and scores at the image's size."""
    model, processor = tiny.make(kind)
    options = {"task_inputs": ["semantic"]} if kind == "oneformer" else {}
    inputs = processor(images=to_pil(image), return_tensors="pt", **options)
    post = getattr(processor, "image_processor", processor).post_process_semantic_segmentation
    size = tuple(image.shape[1:])
    result = post(model(**inputs), target_sizes=[size], return_segmentation_scores=True)[0]
    pixels = inputs["pixel_values"]
    return (pixels.flip(1) if kind == "mobilevit" else pixels), result  # which takes BGR


@pytest.mark.parametrize("kind", SIZES)
def test_masks_are_those_of_the_library_pixel_by_pixel(kind: str, folders: dict[str, Path]) -> None:
    image = picture(*SIZES[kind])
    pixels, expected = library(kind, image)
    network = load_network(f"hf:{folders[kind]}")
    with torch.no_grad():
        torch.testing.assert_close(network.renormalize(normalise(image[None])), pixels, rtol=0, atol=1e-5)
        logits = network.module(pixels)[0]
    scores = expected.segmentation_scores
    assert len(expected.segmentation.unique()) > 1 or kind == "detr"
    assert scores.std(dim=(1, 2)).max() > 0.01 * scores.abs().max()
    assert torch.equal(logits.argmax(dim=0), expected.segmentation.long())
    found = logits.exp() - FLOOR if network.module.outputs else logits
    torch.testing.assert_close(found, scores)
    assert network.labels.names == tuple(tiny.NAMES.values())


@pytest.mark.parametrize(("kind", "sides"), [("segformer", None), ("dpt", (64, 64)), ("eomt", (64, 64))])
def test_any_image_gives_logits_at_its_size(
    kind: str, sides: tuple[int, int] | None, folders: dict[str, Path]
) -> None:
    network = load_network(f"hf:{folders[kind]}")
    assert network.module.sides == sides
    assert network.size == 64
    with torch.no_grad():
        assert network(torch.randn(2, 3, 45, 67)).shape == (2, 5, 45, 67)


@pytest.mark.parametrize("kind", ["segformer", "mobilevit", "oneformer"])
def test_a_student_has_fresh_weights_and_its_own_classes(kind: str, folders: dict[str, Path]) -> None:
    student, teacher = build_model(f"hf:{folders[kind]}", 3), load_network(f"hf:{folders[kind]}")
    logits = student(torch.randn(2, 3, 64, 64))
    assert logits.shape == (2, 3, 64, 64)
    logits.square().mean().backward()
    assert any(p.grad is not None and p.grad.any() for p in student.parameters())
    assert input_statistics(student) == (teacher.mean, teacher.std)
    own, other = (next(network.model.parameters()) for network in (student, teacher.module))
    assert not torch.equal(own, other)


def test_published_weights_fit_all_but_the_head(folders: dict[str, Path]) -> None:
    spec = f"hf:{folders['segformer']}"
    student, published = build_model(spec, 3), load_network(spec).module.model.state_dict()
    line = load_pretrained(student, Architecture(spec=spec), "published")
    assert f"starts from the weights of {spec}, but for 2 tensors from decode_head.classifier" in line
    own = student.model.state_dict()
    different = {name for name, value in own.items() if not torch.equal(value, published[name])}
    assert different == {"decode_head.classifier.weight", "decode_head.classifier.bias"}


def test_published_weights_are_those_of_hugging_face() -> None:
    with pytest.raises(ValueError, match="only hf: networks are published whole"):
        load_pretrained(build_model("dsunet", 3), Architecture(), "published")


@pytest.mark.parametrize("kind", ["mobilevit", "oneformer"])
def test_a_run_needs_nothing_but_its_record_and_weights(kind: str, folders: dict[str, Path]) -> None:
    network = build_model(f"hf:{folders[kind]}", 3).eval()
    assert isinstance(network, HuggingFaceNetwork)
    again = rebuild(json.loads(json.dumps(network.recorded())), 3).eval()
    again.load_state_dict(network.state_dict())
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(network(image), again(image))
    assert again.form == network.form


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_sizes": [2**20, 16]}, "hidden_sizes is 1048576, but must be 262144 at most"),
        ({"num_hidden_layers": 1000}, "num_hidden_layers is 1000, but must be 256 at most"),
        ({"hidden_sizes": [2**16] * 2}, "the number of parameters is"),
        ({"model_type": "bert"}, "model_type is 'bert'"),
        ({"model_type": "evil"}, "model_type is 'evil', but must be one of beit"),
    ],
)
def test_a_strangers_record_cannot_ask_for_all_memory(
    changes: dict[str, Any], message: str, folders: dict[str, Path]
) -> None:
    recorded = build_model(f"hf:{folders['segformer']}", 3).recorded()
    recorded["config"] |= changes
    with pytest.raises(ValueError, match=f"the recorded hf: network cannot be built: .*{message}"):
        rebuild(recorded, 3)


def test_names_that_nobody_gave_or_that_repeat() -> None:
    assert class_names(tiny.hf.SegformerConfig(num_labels=3)) is None
    named = tiny.hf.SegformerConfig(id2label={0: "window ", 1: "road, route", 2: "window"})
    assert class_names(named) == ["window", "road, route", "window (2)"]


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("config.json", "has no config.json: it is no network of transformers"),
        ("model.safetensors", "hf:.*copy: .*no file named"),
        ("preprocessor_config.json", "has no preprocessor_config.json, which says how images are normalised"),
    ],
)
def test_a_missing_file_is_named(folder: Path, file: str, message: str) -> None:
    (folder / file).unlink()
    with pytest.raises(FileNotFoundError, match=message) as caught:
        load_network(f"hf:{folder}")
    assert "\n" not in str(caught.value)


def edit(folder: Path, **changes: Any) -> None:
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | changes))


def test_code_in_the_files_is_never_run(folder: Path) -> None:
    (folder / "evil.py").write_text("import os\nos._exit(3)\nclass Evil: pass\n")
    edit(folder, model_type="evil", auto_map={"AutoConfig": "evil.Evil"})
    with pytest.raises(ValueError, match=f"hf:{folder} cannot be opened: "):
        load_network(f"hf:{folder}")


def test_what_segments_nothing_is_refused(folder: Path) -> None:
    edit(folder, model_type="resnet")
    with pytest.raises(
        ValueError, match=r"of the kind 'resnet', which is no network for segmentation; .*mask2f"
    ):
        load_network(f"hf:{folder}")


def test_an_encoder_alone_is_no_teacher(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    encoder = {name: value for name, value in state.items() if not name.startswith("decode_head")}
    save_file(encoder, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match=r"lacks .* tensors .*decode_head.* was not trained for segmentation"
    ):
        load_network(f"hf:{folder}")


def cached(source: Path, hub: Path, name: str) -> None:
    """Put a network's files where the hub's library keeps what it has downloaded."""
    repository = hub / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    shutil.copytree(source, repository / "snapshots" / ("0" * 40))


def test_a_name_is_found_in_the_cache_of_this_machine(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(
        "huggingface_hub.constants.HF_HUB_OFFLINE", True
    )  # there is none: tests wait for nobody
    cached(folder, tmp_path / "hub", "someone/segformer")
    assert load_network("hf:someone/segformer").labels.names == tuple(tiny.NAMES.values())
    with pytest.raises(ValueError, match=r"hf download someone/else --local-dir FOLDER.*hf:FOLDER"):
        load_network("hf:someone/else")
