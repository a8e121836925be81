"""The student rewritten for inference: the same logits, as convolutions and as one kernel per block."""

import os

import pytest
import torch

from segdistill.data.labels import LabelSet
from segdistill.models.fused import FusedBlock, KernelBlock, fuse, fuse_students
from segdistill.models.student import Block, DSUNet
from segdistill.models.trained import TrainedNetwork
from segdistill.models.zoo import build_model

pytestmark = pytest.mark.unit


def trained(network: torch.nn.Module) -> torch.nn.Module:
    """Weights and statistics as after some training, so that no term of a block is 0 or 1."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if tensor.is_floating_point():
            noise = torch.rand(tensor.shape, generator=generator)
            tensor.data.copy_(0.5 + noise if "running_var" in name else noise - 0.5)
    return network.eval()


def device_of_kernels() -> str:
    """A GPU, else the CPU through Triton's interpreter: the same code, in numpy."""
    pytest.importorskip("triton")
    if torch.cuda.is_available():
        return "cuda"
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("without a GPU, set TRITON_INTERPRET=1 in the environment (make test does)")
    return "cpu"


@pytest.mark.parametrize("size", [(64, 64), (13, 17), (1, 5), (33, 8)])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_fused_student_gives_the_same_logits(size: tuple[int, int], stride: int) -> None:
    student = trained(DSUNet(5, width=0.25, stride=stride)).double()
    image = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(fuse(student)(image), student(image))


def test_the_network_itself_stays_as_it_is() -> None:
    student = DSUNet(5, width=0.1).train()
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    fused = fuse(student)
    assert not fused.training
    assert student.training
    assert all(torch.equal(before[name], tensor) for name, tensor in student.state_dict().items())
    assert all(p.requires_grad for p in student.parameters())


def test_what_holds_no_student_is_refused() -> None:
    with pytest.raises(ValueError, match="this network holds none"):
        fuse(build_model("lraspp_mobilenet_v3_large", 3))


def test_a_network_in_half_precision_is_left_as_it_is() -> None:
    network = TrainedNetwork(DSUNet(2, 0.1), LabelSet(names=("a", "b")), "student")
    fused = fuse_students(network)
    assert any(isinstance(module, FusedBlock) for module in fused.modules())
    network.dtype = torch.bfloat16
    assert fuse_students(network) is network


@pytest.mark.parametrize("dilation", [1, 2, 4])
@pytest.mark.parametrize("split", [None, 5])
@pytest.mark.parametrize(("height", "width"), [(9, 21), (5, 3)])
def test_the_kernel_computes_the_block(dilation: int, split: int | None, height: int, width: int) -> None:
    device = device_of_kernels()
    block = trained(Block(8, 20, dilation)).double()
    whole = torch.randn(2, 8, height, width, dtype=torch.float64)
    expected = block(whole)
    kernel = KernelBlock(FusedBlock(block, split)).float().to(device)
    parts = [whole] if split is None else whole.split([split, 8 - split], dim=1)
    with torch.no_grad():
        found = kernel(*(part.float().to(device) for part in parts))
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.double().cpu(), expected.detach(), atol=1e-4, rtol=1e-4)


def test_under_autocast_the_kernel_computes_in_half_precision() -> None:
    device = device_of_kernels()
    block = trained(Block(8, 20))
    whole = torch.randn(2, 8, 9, 21)
    with torch.no_grad():
        expected = block(whole)
        with torch.autocast(device, torch.float16):
            found = KernelBlock(FusedBlock(block)).to(device)(whole.to(device))
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.float().cpu(), expected, atol=2e-2, rtol=2e-2)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_student_of_kernels_sees_the_same_classes(dtype: torch.dtype) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    student = trained(DSUNet(21)).double()
    image = torch.randn(2, 3, 250, 131, dtype=torch.float64)
    kernels = fuse(student.float(), kernel=True).to("cuda", dtype)
    with torch.no_grad():
        found = kernels(image.to("cuda", dtype)).argmax(dim=1).cpu()
        expected = student.double()(image).argmax(dim=1)
    assert (found == expected).float().mean() > 0.98
