"""Segmentation networks of Hugging Face's transformers, as modules from images to logits.

N: images, K: classes, H, W: rows and columns.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segdistill.data.transforms import resize_bilinear
from segdistill.files import first_line
from segdistill.models.hub import import_transformers, open_pretrained
from segdistill.models.image_processor import InputForm, input_form
from segdistill.models.mask_queries import class_scores, score_logits

TRIED = (64, 96)
"""Height and width, in pixels, of the image that tells whether a network takes any size. Patches of 14, 16 or
32 are no square number then, which some networks take for a square."""
UPSAMPLED = ("mask2former", "eomt", "eomt_dinov3")
"""Mask networks whose masks are upsampled to the input before they are multiplied with the classes."""
QUERIES = ("class_queries_logits", "masks_queries_logits")
OUTPUTS = {"detr": ("logits", "pred_masks")}
"""Classes and masks among the outputs of mask networks, where they are not called `QUERIES`."""
ONEFORMER = "oneformer"
TASK = "the task is semantic"
"""What OneFormer is told to do."""
OPEN_VOCABULARY = "clipseg"
"""The kind of networks that segment what prompts name, see `open_vocabulary.py`."""


class HuggingFaceNetwork(nn.Module):
    """A network of transformers as one from images to logits at their size.

    Args:
        model: a network for semantic segmentation, which gives logits per pixel, or for universal
            segmentation, which gives masks and their classes.
        form: its input.

    Attributes:
        sides: the one height and width that it takes; None where it takes any.
        mean, std: of the RGB input in 0 to 1.

    Raises:
        ValueError: it runs on images of no size that its files name.
    """

    task: Tensor

    def __init__(self, model: Any, form: InputForm) -> None:
        super().__init__()
        self.model, self.form = model, form
        self.mean, self.std = form.mean, form.std
        config = model.config
        self.kind = str(config.model_type)
        self.outputs = OUTPUTS.get(self.kind, QUERIES) if predicts_masks(config) else None
        if self.kind == ONEFORMER:
            # Of the files of a network, but none of its weights: in the state dict, so that runs keep it.
            self.register_buffer("task", torch.zeros(1, config.task_seq_len))
        self.sides: tuple[int, int] | None = None
        self.sides = self._find_sides()

    def forward(self, image: Tensor) -> Tensor:
        """N x 3 x H x W, normalised -> N x K x H x W logits."""
        size = image.shape[2:]
        if self.sides is not None:
            image = resize_bilinear(image, self.sides)
        if self.form.reverse_channels:
            image = image.flip(1)
        options = {"task_inputs": self.task.expand(len(image), -1)} if self.kind == ONEFORMER else {}
        output = self.model(pixel_values=image, **options)
        if self.outputs is None:
            return resize_bilinear(output.logits, size)
        classes, masks = (output[name] for name in self.outputs)
        if self.kind in UPSAMPLED:
            masks = resize_bilinear(masks.float(), image.shape[2:])
        return score_logits(resize_bilinear(class_scores(classes, masks), size))

    def recorded(self) -> dict[str, Any]:
        """JSON form of what the network is rebuilt from, weights apart; see `recorded.py`."""
        config = json.loads(self.model.config.to_json_string(use_diff=False))
        return {"config": config, "form": asdict(self.form)}

    def _find_sides(self) -> tuple[int, int] | None:
        """The one size of images that it takes, or None where it takes any."""
        own = getattr(self.model.config, "image_size", None)
        own = (own, own) if isinstance(own, int) else own and tuple(own)
        reason = ""
        for sides in filter(None, (TRIED, self.form.sides, own)):
            try:
                self._try(sides)
            except (RuntimeError, ValueError, TypeError) as error:
                reason = reason or first_line(error)
            else:
                return None if sides == TRIED else sides
        raise ValueError(f"a network of the kind {self.kind!r} does not run on single images: {reason}")

    @torch.no_grad()
    def _try(self, size: tuple[int, int]) -> None:
        """One pass over a black image of H x W pixels; the mode is restored."""
        training = self.training
        try:
            self.eval()(torch.zeros(1, 3, *size))
        finally:
            self.train(training)


def build_huggingface(source: str, num_classes: int | None) -> HuggingFaceNetwork:
    """A network as a folder, or a name on the hub, describes it, with fresh weights.

    Args:
        source: FOLDER or ORG/NAME.
        num_classes: K; None for the network's own.

    Raises:
        FileNotFoundError: a file is missing in the folder.
        ValueError: it is no segmentation network, transformers is missing, or the files cannot be had.
    """
    config = open_config(source)
    return _with_task(HuggingFaceNetwork(fresh_model(config, num_classes), open_form(source, config)), source)


def load_huggingface(source: str, config: Any) -> HuggingFaceNetwork:
    """A network with its weights.

    Args:
        source: FOLDER or ORG/NAME.
        config: from `open_config`.

    Raises:
        FileNotFoundError, ValueError: as `build_huggingface`, or weights are missing.
    """
    form = open_form(source, config)
    load = _prepare(config).from_pretrained
    return _with_task(HuggingFaceNetwork(load_weights(load, source, config), form), source)


def load_weights(load: Any, source: str, config: Any) -> Any:
    """A model of transformers with all of its weights, in float32.

    Raises:
        FileNotFoundError, ValueError: they are not there, or not all of them.
    """
    model, found = open_pretrained(load, source, config=config, dtype=torch.float32, output_loading_info=True)
    missing = sorted(found["missing_keys"])
    if missing:
        raise ValueError(
            f"hf:{source} lacks {len(missing)} tensors of a {type(model).__name__}, {missing[0]} among them: "
            "it was not trained for segmentation"
        )
    return model


def load_published(network: HuggingFaceNetwork, source: str) -> list[str]:
    """Give a fresh network the published weights that fit it: all but those of a head for other classes.

    Returns:
        The names of the tensors that keep their fresh values.

    Raises:
        FileNotFoundError, ValueError: the weights are not there, or none fit.
    """
    config, own = network.model.config, network.model.state_dict()
    model, found = open_pretrained(
        auto_class(config).from_pretrained,
        source,
        config=config,
        dtype=torch.float32,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    fresh = {*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])}
    if fresh >= own.keys():
        raise ValueError(f"hf:{source} has no weights for {type(model).__name__}")
    state = model.state_dict() | {name: value for name, value in own.items() if name in fresh}
    network.model.load_state_dict(state)
    return sorted(fresh)


def open_config(source: str) -> Any:
    """The configuration of a segmentation network.

    Raises:
        FileNotFoundError, ValueError: see `build_huggingface`.
    """
    folder = Path(source)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise FileNotFoundError(f"hf:{source} has no config.json: it is no network of transformers")
    config = open_pretrained(import_transformers().AutoConfig.from_pretrained, source)
    if auto_class(config) is None and config.model_type != OPEN_VOCABULARY:
        raise ValueError(
            f"hf:{source} is of the kind {config.model_type!r}, which is no network for segmentation; "
            f"transformers has {', '.join([*segmentation_kinds(), OPEN_VOCABULARY])}"
        )
    return config


def open_form(source: str, config: Any) -> InputForm:
    """What a network wants of its input, from its image processor.

    Raises:
        FileNotFoundError, ValueError: it has none, or one of no RGB images.
    """
    load = import_transformers().AutoImageProcessor.from_pretrained
    # OneFormer's reads names of classes, which nothing here needs, from another repository.
    options = {"class_info_file": None} if config.model_type == ONEFORMER else {}
    try:
        return input_form(open_pretrained(load, source, **options))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"hf:{source} has no preprocessor_config.json, which says how images are normalised: bring it "
            "too, or write it with the save_pretrained of an image processor"
        ) from None


def class_names(config: Any) -> list[str] | None:
    """The names of a network's classes, in index order; None where nobody has named them.

    Of names that repeat, the later ones get their index.
    """
    names = [str(name).strip() for _, name in sorted(config.id2label.items())]
    if all(name == f"LABEL_{index}" for index, name in enumerate(names)):
        return None
    return [f"{name} ({index})" if name in names[:index] else name for index, name in enumerate(names)]


def fresh_model(config: Any, num_classes: int | None) -> Any:
    """A model of transformers with fresh weights; `config` is changed to K classes."""
    if num_classes is not None:
        config.num_labels = num_classes
    if hasattr(config, "use_pretrained_backbone"):
        config.use_pretrained_backbone = False
    return _prepare(config).from_config(config)


def auto_class(config: Any) -> Any:
    """The class of transformers that opens a network; None where it is none for segmentation."""
    return next((opener for opener, mapping in _families() if type(config) in mapping), None)


def segmentation_kinds() -> list[str]:
    """The kinds of segmentation networks that transformers has, by `model_type`."""
    return sorted(config.model_type for _, mapping in _families() for config in mapping)


def predicts_masks(config: Any) -> bool:
    """Whether a network gives masks and their classes, and no logits per pixel."""
    return auto_class(config) is import_transformers().AutoModelForUniversalSegmentation


def _families() -> list[tuple[Any, Any]]:
    """Two kinds of segmentation networks: the class that opens them, and the configurations it takes."""
    transformers = import_transformers()
    return [
        (
            transformers.AutoModelForSemanticSegmentation,
            transformers.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING,
        ),
        (
            transformers.AutoModelForUniversalSegmentation,
            transformers.MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING,
        ),
    ]


def _prepare(config: Any) -> Any:
    """Switch off what only transformers' own losses use; returns the class that opens the network."""
    if hasattr(config, "use_auxiliary_head"):
        config.use_auxiliary_head = False
    if config.model_type == ONEFORMER:
        config.is_training = False
    return auto_class(config)


def _with_task(network: HuggingFaceNetwork, source: str) -> HuggingFaceNetwork:
    """The network, OneFormer with the tokens of its task."""
    if network.kind == ONEFORMER:
        tokenizer = open_pretrained(import_transformers().AutoTokenizer.from_pretrained, source)
        tokens = tokenizer(
            TASK, padding="max_length", max_length=network.task.shape[1], truncation=True, return_tensors="pt"
        )
        network.task.copy_(tokens.input_ids * tokens.attention_mask)
    return network
