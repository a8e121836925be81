"""Templates of pages. Into HTML what is filled in is escaped, for anyone may have chosen those names."""

import re
from base64 import b64encode
from hashlib import sha256
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup, escape

LONGEST_PIECE = 20
"""Letters of a name after which it may be broken, where it has no other place for that."""


def open_template(package: str, name: str) -> Template:
    """The template in a file of a package; Markdown, which is not escaped, has a filter `cell` for tables."""
    environment = Environment(
        loader=PackageLoader(package, ""),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=not name.endswith(".md.j2"),
    )
    environment.filters |= {"cell": _cell, "breakable": breakable}
    return environment.get_template(name)


def read_script(package: str, name: str) -> tuple[Markup, str]:
    """A script of a package, to be inlined, and what a page's policy calls it: no other one may run."""
    text = (files(package) / name).read_text(encoding="utf-8")
    return Markup(text), f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"


def breakable(name: str) -> Markup:
    """A name that a narrow column breaks after a sign between its words, and never within a short word."""
    pieces = re.findall(rf"[^/_. -]{{1,{LONGEST_PIECE}}}[/_. -]?|[/_. -]", name)
    return Markup("<wbr>").join(map(escape, pieces))


def _cell(text: object) -> str:
    """A text in one cell of a table."""
    return str(text).replace("|", "\\|").replace("\n", " ")
