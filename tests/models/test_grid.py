"""Where points of strided maps lie, by numbers worked out by hand."""

import pytest
import torch

from segdistill.models.grid import Anchor, pad_to_multiple, upsample_grid

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("anchor", "expected"),
    [
        ("first", [0, 1, 2, 3, 4, 4, 4, 4]),  # points at 0 and 4
        ("last", [0, 0, 0, 0, 1, 2, 3, 4]),  # at 3 and 7
        ("centre", [0, 0, 0.5, 1.5, 2.5, 3.5, 4, 4]),  # at 1.5 and 5.5
    ],
)
def test_points_are_where_the_strided_convolutions_left_them(anchor: Anchor, expected: list[float]) -> None:
    line = torch.tensor([[[[0.0, 4.0], [0.0, 4.0]]]])
    torch.testing.assert_close(
        upsample_grid(line, 4, (8, 8), anchor)[0, 0, 3], torch.tensor(expected).float()
    )
    down = upsample_grid(line.transpose(2, 3), 4, (8, 8), anchor)[0, 0, :, 3]
    torch.testing.assert_close(down, torch.tensor(expected).float())
    assert upsample_grid(line, 4, (5, 7), anchor).shape == (1, 1, 5, 7)


def test_images_are_padded_to_whole_cells() -> None:
    padded = pad_to_multiple(torch.ones(1, 3, 33, 64), 32)
    assert padded.shape == (1, 3, 64, 64)
    assert padded[:, :, 33:].abs().sum() == 0
    assert pad_to_multiple(torch.ones(1, 3, 32, 64), 32).shape == (1, 3, 32, 64)
