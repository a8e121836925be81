"""What the site adds to Sphinx: the reference leaves nothing out, and no page needs a network."""

import dataclasses
from pathlib import Path

import pytest
from offline_pages import requests_of
from reference_pages import names_page, options_page

import segdistill
from segdistill.config.train import TrainConfig
from segdistill.distillation.table import LOSSES

pytestmark = pytest.mark.unit
LOSSES_PAGE = Path(__file__).parents[2] / "docs" / "losses.md"


def test_every_setting_of_a_training_has_a_row() -> None:
    page = options_page()
    train = page[page.index("## train\n") : page.index("## cache\n")]
    for field in dataclasses.fields(TrainConfig):
        inner = dataclasses.fields(field.type) if dataclasses.is_dataclass(field.type) else ()
        for name in [f"{field.name}.{each.name}" for each in inner] or [field.name]:
            assert f"* - `--{name}`" in train, name
    assert "* - `--data.root`, `--data`" in train
    assert "- `adamw`, `adam`, `sgd`\n  - `adamw`\n" in train
    assert "- integer or `null`\n  - `null`\n  - Training images, and their masks" in train


def test_commands_of_two_words_have_a_section() -> None:
    page = options_page()
    for verb in ("data check", "data shapes", "serve", "push", "version"):
        assert f"## {verb}\n" in page
    assert "```sh\nsegdistill data check mydata\n" in page
    assert "* - `TARGETS`\n  - text, ...\n" in page


def test_every_public_name_is_documented() -> None:
    page = names_page()
    for name in segdistill.__all__:
        assert (
            name == "__version__" or f":: segdistill.{name}\n" in page or f":: segdistill.{name}()\n" in page
        )


@pytest.mark.parametrize(
    ("file", "text", "count"),
    [
        ("page.html", '<script src="https://cdn.example/x.js"></script>', 1),
        ("page.html", "<img alt='x' src='//example.org/x.png'>", 1),
        ("page.html", '<link href="https://example.org/x.css" rel="stylesheet">', 1),
        ("style.css", "@import 'https://example.org/font.css';", 1),
        ("style.css", "src: url(http://example.org/font.woff2)", 1),
        ("page.html", '<a href="https://example.org">a link</a><img src="x.png">', 0),
        ("style.css", "src: url(font.woff2)", 0),
    ],
)
def test_requests_are_found(file: str, text: str, count: int, tmp_path: Path) -> None:
    (tmp_path / file).write_text(text)
    assert len(requests_of(tmp_path)) == count


def test_pictures_of_all_losses_are_drawn_and_shown(tmp_path: Path) -> None:
    from draw_losses import DRAWN, draw

    files = draw(tmp_path)
    assert set(LOSSES) == DRAWN
    page = LOSSES_PAGE.read_text()
    for file in files:
        assert file.read_text().count("<path") > 10
        assert f"(images/losses/{file.name})" in page
        assert (LOSSES_PAGE.parent / "images" / "losses" / file.name).exists()
