"""Tiny networks of transformers with random weights, written as their authors publish them."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from segdistill.models.quiet import quiet

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of packages that transformers imports, when they are compiled
    import transformers as hf
    import transformers.modeling_utils

NAMES = {0: "wall", 1: "road, route", 2: "person;individual", 3: "tree", 4: "sky"}
CLASSES: dict[str, Any] = {"num_labels": 5, "id2label": NAMES, "label2id": {v: k for k, v in NAMES.items()}}
SQUARE = {"height": 64, "width": 64}
EDGES = {"shortest_edge": 64, "longest_edge": 96}
STAGES = ["stage1", "stage2", "stage3", "stage4"]
VIT: dict[str, Any] = {
    "image_size": 64, "patch_size": 16, "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2,
    "intermediate_size": 32,
}  # fmt: skip
WORDS = ["<|startoftext|>", "<|endoftext|>", *"the task is semantic a road tree bush".split()]
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def tokenizer() -> Any:
    """CLIP's, with a vocabulary of letters."""
    tokens = [*WORDS[:2], *(f"{word}</w>" for word in WORDS[2:] if len(word) > 1), *LETTERS]
    vocabulary = [*tokens, *(f"{letter}</w>" for letter in LETTERS)]
    return hf.CLIPTokenizer(vocab={token: index for index, token in enumerate(vocabulary)}, merges=[])


def swin() -> Any:
    return hf.SwinConfig(
        embed_dim=8, depths=[1] * 4, num_heads=[1, 1, 2, 2], window_size=4, image_size=64, out_features=STAGES
    )


def segformer() -> tuple[Any, Any]:
    config = hf.SegformerConfig(
        num_encoder_blocks=2, depths=[1, 1], hidden_sizes=[8, 16], num_attention_heads=[1, 2],
        sr_ratios=[4, 2], decoder_hidden_size=16, classifier_dropout_prob=0.0, drop_path_rate=0.0, **CLASSES,
    )  # fmt: skip
    return hf.SegformerForSemanticSegmentation(config), hf.SegformerImageProcessor(size=SQUARE)


def upernet() -> tuple[Any, Any]:
    backbone = hf.ConvNextConfig(depths=[1] * 4, hidden_sizes=[8, 8, 16, 16], out_features=STAGES)
    config = hf.UperNetConfig(
        backbone_config=backbone, hidden_size=16, auxiliary_in_channels=16, auxiliary_channels=8,
        pool_scales=[1, 2], **CLASSES,
    )  # fmt: skip
    return hf.UperNetForSemanticSegmentation(config), hf.SegformerImageProcessor(size=SQUARE)


def beit() -> tuple[Any, Any]:
    config = hf.BeitConfig(
        **VIT, out_indices=[1, 2, 3, 4], use_relative_position_bias=True, pool_scales=[1, 2],
        auxiliary_channels=8, **CLASSES,
    )  # fmt: skip
    return hf.BeitForSemanticSegmentation(config), hf.BeitImageProcessor(size=SQUARE)


def dpt() -> tuple[Any, Any]:
    config = hf.DPTConfig(
        **VIT, backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 16, 16], fusion_hidden_size=16,
        **CLASSES,
    )  # fmt: skip
    return hf.DPTForSemanticSegmentation(config), hf.DPTImageProcessor(size=SQUARE)


def mobilevit() -> tuple[Any, Any]:
    config = hf.MobileViTConfig(
        image_size=64, hidden_sizes=[16, 24, 32], neck_hidden_sizes=[8, 8, 16, 16, 24, 24, 32],
        num_attention_heads=2, aspp_out_channels=16, atrous_rates=[1, 2, 3], **CLASSES,
    )  # fmt: skip
    processor = hf.MobileViTImageProcessor(size={"shortest_edge": 64}, do_center_crop=False)
    return hf.MobileViTForSemanticSegmentation(config), processor


def mobilenet() -> tuple[Any, Any]:
    config = hf.MobileNetV2Config(depth_multiplier=0.1, image_size=64, **CLASSES)
    processor = hf.MobileNetV2ImageProcessor(size={"shortest_edge": 64}, do_center_crop=False)
    return hf.MobileNetV2ForSemanticSegmentation(config), processor


def maskformer() -> tuple[Any, Any]:
    decoder = hf.DetrConfig(
        d_model=32, encoder_layers=1, decoder_layers=2, encoder_ffn_dim=32, decoder_ffn_dim=32,
        encoder_attention_heads=2, decoder_attention_heads=2, num_queries=6,
    )  # fmt: skip
    config = hf.MaskFormerConfig(
        backbone_config=swin(), decoder_config=decoder, fpn_feature_size=32, mask_feature_size=32, **CLASSES
    )
    return hf.MaskFormerForInstanceSegmentation(config), hf.MaskFormerImageProcessor(size=EDGES)


def mask2former() -> tuple[Any, Any]:
    config = hf.Mask2FormerConfig(
        backbone_config=swin(), hidden_dim=32, feature_size=32, mask_feature_size=32, encoder_layers=1,
        encoder_feedforward_dim=32, dim_feedforward=32, decoder_layers=3, num_attention_heads=2,
        num_queries=6, **CLASSES,
    )  # fmt: skip
    # The library resizes masks to 384 x 384, whatever the input: only that size can be compared.
    processor = hf.Mask2FormerImageProcessor(size={"height": 384, "width": 384})
    return hf.Mask2FormerForUniversalSegmentation(config), processor


def oneformer() -> tuple[Any, Any]:
    config = hf.OneFormerConfig(
        backbone_config=swin(), hidden_dim=32, conv_dim=32, mask_dim=32, encoder_layers=1,
        encoder_feedforward_dim=32, dim_feedforward=32, decoder_layers=3, num_attention_heads=2,
        num_queries=6, query_dec_layers=1, text_encoder_width=16, text_encoder_num_layers=1,
        text_encoder_vocab_size=70, **CLASSES,
    )  # fmt: skip
    images = hf.OneFormerImageProcessor(size=EDGES, num_labels=5)
    return hf.OneFormerForUniversalSegmentation(config), hf.OneFormerProcessor(images, tokenizer())


def eomt() -> tuple[Any, Any]:
    config = hf.EomtConfig(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, image_size=64, patch_size=16,
        num_queries=6, num_blocks=1, num_upscale_blocks=1, num_register_tokens=1, **CLASSES,
    )  # fmt: skip
    processor = hf.EomtImageProcessor(size={"shortest_edge": 64, "longest_edge": 64})
    return hf.EomtForUniversalSegmentation(config), processor


def detr() -> tuple[Any, Any]:
    backbone = hf.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1] * 4, layer_type="basic", out_features=STAGES
    )
    config = hf.DetrConfig(
        backbone_config=backbone, d_model=32, encoder_layers=1, decoder_layers=2, encoder_ffn_dim=32,
        decoder_ffn_dim=32, encoder_attention_heads=8, decoder_attention_heads=8, num_queries=6, **CLASSES,
    )  # fmt: skip
    return hf.DetrForSegmentation(config), hf.DetrImageProcessor(size=EDGES)


def clipseg() -> tuple[Any, Any]:
    shared = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    text = {"vocab_size": 70, "max_position_embeddings": 32, "num_hidden_layers": 1, "eos_token_id": 1}
    config = hf.CLIPSegConfig(
        text_config={**shared, **text, "bos_token_id": 0, "pad_token_id": 1},
        vision_config={**shared, "num_hidden_layers": 3, "image_size": 64, "patch_size": 16},
        projection_dim=16, reduce_dim=8, extract_layers=[0, 1, 2], decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
    )  # fmt: skip
    processor = hf.CLIPSegProcessor(hf.ViTImageProcessor(size=SQUARE), tokenizer())
    return hf.CLIPSegForImageSegmentation(config), processor


TINY: dict[str, Callable[[], tuple[Any, Any]]] = {
    maker.__name__: maker
    for maker in (
        segformer, upernet, beit, dpt, mobilevit, mobilenet, maskformer, mask2former, oneformer, eomt, detr,
        clipseg,
    )
}  # fmt: skip

SEEDS = {"maskformer": 13}
"""Of weights with which masks have several classes."""


def make(kind: str) -> tuple[Any, Any]:
    """Model, in eval mode, and processor; weights are larger than fresh ones, so that its logits vary."""
    torch.manual_seed(0)
    with quiet():
        model, processor = TINY[kind]()
    torch.manual_seed(SEEDS.get(kind, 1))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(std=1.5 / (weight.numel() / len(weight)) ** 0.5)
    return model.eval(), processor


def save(kind: str, folder: Path) -> Path:
    """Write model and processor into a folder."""
    model, processor = make(kind)
    with quiet():
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    return folder


def picture(height: int, width: int) -> torch.Tensor:
    """A 3 x H x W uint8 image of coloured blobs."""
    coarse = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")[0]
    return (255 * smooth.clamp(0, 1)).to(torch.uint8)


def to_pil(image: torch.Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def write_images(root: Path, names: list[str], count: int) -> Path:
    """A data set in folders: `count` images of 48 x 64 pixels, with masks, in each of two splits."""
    root.mkdir(parents=True, exist_ok=True)
    layout = {"names": names, "images": "{split}/images", "masks": "{split}/masks"}
    (root / "dataset.yaml").write_text(json.dumps(layout))  # which is YAML too
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for index in range(count):
            image = picture(48, 64).roll(9 * index, 2)
            mask = (image[0] // (255 // len(names))).clamp(max=len(names) - 1)
            to_pil(image).save(root / split / "images" / f"{index}.png")
            Image.fromarray(mask.numpy()).save(root / split / "masks" / f"{index}.png")
    return root
