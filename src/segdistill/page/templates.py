"""Templates of pages. Into HTML what is filled in is escaped, for anyone may have chosen those names."""

from jinja2 import Environment, PackageLoader, StrictUndefined, Template


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
    environment.filters["cell"] = _cell
    return environment.get_template(name)


def _cell(text: object) -> str:
    """A text in one cell of a table."""
    return str(text).replace("|", "\\|").replace("\n", " ")
