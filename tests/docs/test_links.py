"""Every relative link of the documentation leads to a file, and to a heading of it."""

from pathlib import Path
from urllib.parse import unquote

import pytest
from markdown_pages import PAGES, PROJECT, anchors_of, links_of, name_of

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in links_of(page):
        path, _, anchor = unquote(link).partition("#")
        if "://" in path or path.startswith("mailto:"):
            continue
        file = (page.parent / path).resolve() if path else page
        inside = file.is_relative_to(PROJECT)
        if not inside or not file.exists() or (anchor and anchor not in anchors_of(file)):
            broken.append(link)
    assert not broken


def test_anchors_are_those_of_github(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Is it real?\n## `--size` and *more*\n## One\n### One\n```\n# no heading\n```\n")
    assert anchors_of(page) == {"is-it-real", "--size-and-more", "one", "one-1"}
