"""What the tests of the documentation read of a Markdown file: headings, links and blocks of code."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

PROJECT = Path(__file__).parents[2]
PAGES = sorted(
    {*PROJECT.glob("*.md"), *PROJECT.glob("docs/**/*.md"), *PROJECT.glob("pretrained/*/README.md")}
)
UNCHECKED = re.compile(r"<!-- not checked: (.+?) -->", re.S)
"""Stands above a block that the tests cannot run, with the reason."""
PROGRAMS = [[name] for name in ("segdistill", "python", "pip", "make", "accelerate")]
"""A block without a language that begins with one of these is a block of commands."""


@dataclass(frozen=True)
class Block:
    """A fenced block of code.

    Attributes:
        page: the file.
        line: where it begins, counted from 1.
        language: what stands behind the fence, else `sh` for commands and `text` for all else.
        code: its text.
        unchecked: why it is not run, from the comment above it, or None.
    """

    page: Path
    line: int
    language: str
    code: str
    unchecked: str | None

    def __str__(self) -> str:
        """Where it is."""
        return f"{self.page.relative_to(PROJECT)}:{self.line}"


def name_of(page: Path) -> str:
    """The name of a test of this page."""
    return str(page.relative_to(PROJECT))


def tokens_of(page: Path) -> list[Token]:
    """The page as markdown-it reads it, with tables."""
    return MarkdownIt("commonmark").enable("table").parse(page.read_text())


def blocks_of(page: Path) -> Iterator[Block]:
    """Its fenced blocks, in order."""
    above = ""
    for token in tokens_of(page):
        if token.type == "fence":
            assert token.map is not None
            comment = UNCHECKED.search(above)
            reason = comment[1] if comment else None
            plain = "sh" if token.content.split()[:1] in PROGRAMS else "text"
            yield Block(page, token.map[0] + 1, token.info.strip() or plain, token.content, reason)
        above = token.content if token.type == "html_block" else ""


def anchors_of(page: Path) -> set[str]:
    """The anchors of its headings, as GitHub makes them."""
    tokens = tokens_of(page)
    seen: Counter[str] = Counter()
    anchors = set()
    for token, inline in pairwise(tokens):
        if token.type == "heading_open":
            text = "".join(part.content for part in inline.children or [] if part.type != "html_inline")
            slug = re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
            anchors.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
            seen[slug] += 1
    return anchors


def links_of(page: Path) -> Iterator[str]:
    """The targets of its links and pictures."""
    for token in tokens_of(page):
        for part in token.children or []:
            if part.type in ("link_open", "image"):
                yield str(part.attrs.get("href", part.attrs.get("src")))
