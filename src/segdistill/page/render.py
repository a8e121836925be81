"""The page on which a network segments pictures: one source, filled in for a server or for a file."""

from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from segdistill.page.templates import open_template

STYLE_FILE, SCRIPT, ICON = "page.css", "page.js", "icon.svg"
BROWSER_SCRIPTS = {
    "./backend.js": "browser.js",
    "./drawing.js": "drawing.js",
    "./legend.js": "legend.js",
    "./live.js": "live.js",
    "./png.js": "png.js",
    "segdistill/resize": "resize.js",
}
"""What the page imports where the network runs in the browser: specifier -> file of this package."""


@dataclass(frozen=True, kw_only=True)
class WebPage:
    """What a page that has the network itself is filled in with.

    Attributes:
        name: of the network.
        about: a sentence on what it was made with.
        imports: import map: specifiers and their URLs.
        manifest: what `browser.js` reads: card, runtimes, model, size, self-test.
        parts: inlined data by id, base64 of gzip; empty where they are files beside the page.
    """

    name: str
    about: str
    imports: dict[str, str]
    manifest: dict[str, Any]
    parts: dict[str, str]


def read_part(name: str) -> str:
    """The text of a file of this package."""
    return files("segdistill.page").joinpath(name).read_text(encoding="utf-8")


def render_page(web: WebPage | None = None, *, icon: str = ICON, style: str = "", script: str = "") -> str:
    """The HTML.

    Args:
        web: for a page that has the network itself; None for that of a server.
        icon: URL of the icon.
        style, script: inlined; where empty, the page loads the files beside it.
    """
    template = open_template("segdistill.page", "index.html.j2")
    return template.render(web=web, icon=icon, style=style, script=script)
