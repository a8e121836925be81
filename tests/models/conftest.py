"""What the tests of networks share: a file with functions that return networks, and small ONNX files."""

from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

MakeOnnx = Callable[..., Path]

NETWORKS = """
import torch
from torch import nn

from segdistill.data.labels import LabelSet

def student(num_classes):
    return nn.Conv2d(3, num_classes, 1)

def teacher():
    torch.manual_seed(0)
    network = nn.Conv2d(3, 2, 1)
    network.labels = ["ground", "road"]
    network.mean, network.std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    return network

def with_label_set():
    network = nn.Conv2d(3, 2, 1)
    network.labels = LabelSet(names=("ground", "road"), palette=((1, 2, 3), (4, 5, 6)))
    return network

def wrong_labels():
    network = nn.Conv2d(3, 2, 1)
    network.labels = ["ground", "road", "roof"]
    return network

def nothing():
    return 3

def flat():
    return nn.Sequential(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())

class Named(nn.Module):
    def __init__(self, name="boxes"):
        super().__init__()
        self.name = name

    def forward(self, image):
        return {"aux": image, self.name: 2 * image}

def with_out():
    return Named("out")

def with_logits():
    return Named("logits")
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A Python file with functions that return networks."""
    path = tmp_path / "mine.py"
    path.write_text(NETWORKS)
    return path


@pytest.fixture
def make_onnx(tmp_path: Path) -> MakeOnnx:
    """Writes a 1x1 convolution as an ONNX file, with metadata."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper, numpy_helper

    def make(
        plain: nn.Conv2d,
        size: tuple[int | str, ...] = ("n", "h", "w"),
        name: str = "network.onnx",
        **metadata: str,
    ) -> Path:
        batch, height, width = size
        parts = [numpy_helper.from_array(p.detach().numpy(), key) for key, p in plain.named_parameters()]
        channels = {"image": plain.in_channels, "logits": plain.out_channels}
        image, logits = (
            helper.make_tensor_value_info(key, TensorProto.FLOAT, [batch, count, height, width])
            for key, count in channels.items()
        )
        node = helper.make_node("Conv", ["image", "weight", "bias"], ["logits"])
        graph = helper.make_graph([node], "network", [image], [logits], parts)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        helper.set_model_props(model, metadata)
        onnx.save(model, tmp_path / name)
        return tmp_path / name

    return make
