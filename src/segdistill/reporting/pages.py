"""The templates of HTML pages; names are escaped in them, for anyone may have chosen those."""

import re
from base64 import b64encode
from hashlib import sha256
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup, escape

LONGEST_PIECE = 20
"""Letters of a name after which it may be broken, where it has no other place for that."""


def open_template(name: str) -> Template:
    """The template in a file beside this one."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = breakable
    return environment.get_template(name)


def breakable(name: str) -> Markup:
    """A name that a narrow column breaks after a sign between its words, and never within a short word."""
    pieces = re.findall(rf"[^/_. -]{{1,{LONGEST_PIECE}}}[/_. -]?|[/_. -]", name)
    return Markup("<wbr>").join(map(escape, pieces))


def read_script(name: str) -> tuple[Markup, str]:
    """A script beside this file, to be inlined, and what a page's policy calls it: no other one may run."""
    text = (Path(__file__).parent / name).read_text(encoding="utf-8")
    return Markup(text), f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"
