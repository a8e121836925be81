"""Networks that segment what prompts name: CLIPSeg.

Source: Lueddecke and Ecker 2022, "Image Segmentation Using Text and Image Prompts".
N: images, K: classes, P: prompts, D: channels of an embedding, H, W: rows and columns.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from segdistill.config.naming import setting
from segdistill.config.prompts import BACKGROUND, PromptConfig
from segdistill.config.values import require
from segdistill.data.transforms import resize_bilinear
from segdistill.models.hub import import_transformers, open_pretrained
from segdistill.models.huggingface import load_weights, open_form
from segdistill.models.image_processor import InputForm

EXAMPLE = """'{road: "a road", tree: [tree, bush]}'"""


class OpenVocabularyNetwork(nn.Module):
    """CLIPSeg with fixed prompts, as a module from images to the logits of their classes.

    The logit of a class is that of its surest prompt; the background's is the same everywhere, that of the
    threshold. So a pixel is background where all prompts are less sure than the threshold.

    Args:
        model: CLIPSeg.
        form: its input.
        prompts: classes and their texts.
        embeddings: P x D, of all texts in their order.

    Attributes:
        names: of the K classes.
    """

    embeddings: Tensor
    owners: Tensor
    background: Tensor

    def __init__(self, model: Any, form: InputForm, prompts: PromptConfig, embeddings: Tensor) -> None:
        super().__init__()
        self.model, self.form = model, form
        self.mean, self.std = form.mean, form.std
        threshold = prompts.prompt_threshold
        self.names = [*([] if threshold is None else [BACKGROUND]), *prompts.prompts]
        self.classes = len(prompts.prompts)
        owners = [index for index, name in enumerate(prompts.prompts) for _ in prompts.texts(name)]
        logits = [] if threshold is None else [math.log(threshold / (1 - threshold))]
        # In the state dict, so that the key of the teacher's cache depends on them.
        self.register_buffer("embeddings", embeddings)
        self.register_buffer("owners", torch.tensor(owners))
        self.register_buffer("background", torch.tensor(logits))
        side = int(model.config.vision_config.image_size)
        self.sides = form.sides or (side, side)

    def forward(self, image: Tensor) -> Tensor:
        """N x 3 x H x W, normalised -> N x K x H x W logits."""
        size = image.shape[2:]
        seen = self.model.clip.get_image_features(
            pixel_values=resize_bilinear(image, self.sides),
            interpolate_pos_encoding=True,
            output_hidden_states=True,
        )
        activations = [seen.hidden_states[layer + 1] for layer in self.model.extract_layers]
        maps = torch.stack(  # one prompt at a time: the maps inside are larger than those that come out
            [
                self.model.decoder(activations, embedding.expand(len(image), -1)).logits
                for embedding in self.embeddings
            ],
            dim=1,
        )
        classes = [maps[:, self.owners == index].amax(dim=1) for index in range(self.classes)]
        background = [logit.expand_as(classes[0]) for logit in self.background]
        return resize_bilinear(torch.stack([*background, *classes], dim=1), size)


def load_open_vocabulary(source: str, config: Any, prompts: PromptConfig) -> OpenVocabularyNetwork:
    """CLIPSeg with its weights and the prompts, which go through the text encoder once, here.

    Args:
        source: FOLDER or ORG/NAME.
        config: from `open_config`.
        prompts: classes and their texts.

    Raises:
        FileNotFoundError: a file is missing in the folder.
        ValueError: there are no prompts, or the files cannot be had or read.
    """
    if not prompts.prompts:
        raise ValueError(
            f"hf:{source} segments what prompts name: set {setting('teacher.prompts')} (evaluate, predict "
            f"and label: {setting('prompts')}), such as {EXAMPLE}"
        )
    transformers = import_transformers()
    form = open_form(source, config)
    tokenizer = open_pretrained(transformers.AutoTokenizer.from_pretrained, source)
    model = load_weights(transformers.CLIPSegForImageSegmentation.from_pretrained, source, config).eval()
    texts = [text for name in prompts.prompts for text in prompts.texts(name)]
    tokens = tokenizer(texts, padding=True, return_tensors="pt")
    longest, length = config.text_config.max_position_embeddings, tokens.input_ids.shape[1]
    require(length <= longest, "prompts", prompts.prompts, f"texts of {longest - 2} tokens at most")
    with torch.no_grad():
        embeddings = model.get_conditional_embeddings(
            len(texts), input_ids=tokens.input_ids, attention_mask=tokens.attention_mask
        )
    return OpenVocabularyNetwork(model, form, prompts, embeddings)
