"""How Sphinx builds the site of `make docs`: from all Markdown files of the project, to be read offline."""

import sys
from pathlib import Path

import segdistill

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS / "extensions"))

project = "segdistill"
copyright = "the segdistill authors"
release = version = segdistill.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "offline_pages",
    "reference_pages",
]
root_doc = "docs/index"
include_patterns = [
    "docs/**.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "README.md", "pretrained/*/README.md",
]  # fmt: skip
exclude_patterns = [".*", "runs", "data", "site", "src", "tests", "benchmarks"]

myst_heading_anchors = 4  # links name headings as on GitHub
highlight_language = "none"
smartquotes = False  # "--out" is an option, no dash
default_role = "literal"  # docstrings have single backticks, as Markdown has

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
python_use_unqualified_type_names = True
add_module_names = False
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"segdistill {release}"
html_static_path = ["style"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_extra_path = ["start_page"]
copybutton_exclude = ".linenos, .gp, .go"
