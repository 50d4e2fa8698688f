"""Sphinx's settings; `bash tools/build_docs.sh` builds the site."""

import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS.parent), str(DOCS / '_ext')]

import mmkd  # noqa: E402

project = 'mmkd'
release = version = mmkd.__version__
extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon', 'mathml', 'pages']
exclude_patterns = ['_build', 'results']

html_theme = 'furo'
html_title = f'mmkd {release}'
html_static_path = ['_static']
html_css_files = ['site.css']
html_show_sphinx = False
html_copy_source = False
html_math_renderer = 'mathml'

myst_heading_anchors = 4
suppress_warnings = ['myst.header']  # the tables of a block are headed by H3, wherever it stands

autodoc_typehints_format = 'short'
autodoc_member_order = 'bysource'
autodoc_class_signature = 'mixed'
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 90
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
