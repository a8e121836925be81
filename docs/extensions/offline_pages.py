"""Fails a build whose pages would ask another machine for a script, a style, a font or a picture."""

import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.errors import SphinxError

REQUESTS = {
    ".html": re.compile(
        r"""<(?:script|img|iframe|source|video|audio)\b[^>]*\ssrc=["']?(?:https?:)?//"""
        r"""|<link\b(?=[^>]*rel=["'](?:stylesheet|preload|icon|preconnect))[^>]*href=["']?(?:https?:)?//""",
        re.I,
    ),
    ".css": re.compile(r"""(?:@import\s+(?:url\()?|url\()\s*["']?(?:https?:)?//""", re.I),
}
"""By kind of file, what makes a browser ask; links that a reader may follow do not."""


def requests_of(folder: Path) -> list[str]:
    """What the files of a site would ask of other machines, each with its file."""
    return [
        f"{file}: {found[0]}"
        for kind, pattern in REQUESTS.items()
        for file in sorted(folder.rglob(f"*{kind}"))
        for found in pattern.finditer(file.read_text(encoding="utf-8"))
    ]


def refuse(app: Sphinx, error: Exception | None) -> None:
    """Look at what was built (Sphinx's event `build-finished`)."""
    found = [] if error else requests_of(Path(app.outdir))
    if found:
        raise SphinxError("the site needs a network: " + "; ".join(found))


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx's entry."""
    app.connect("build-finished", refuse)
    return {"parallel_read_safe": True}
