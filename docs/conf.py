"""Sphinx configuration: the guides, in Markdown, and an API reference from the docstrings.

make docs        # warnings are errors; the pages are in build/docs/html
"""

import importlib.metadata

project = "Distilling Step-by-Step in JAX"
author = "the project's contributors"
release = importlib.metadata.version("distill-step-by-step")

extensions = [
    "myst_parser",
    "sphinx.ext.apidoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["api/modules.rst"]  # apidoc's list of one package
suppress_warnings = [
    "misc.highlighting_failure",  # printed JSON that a guide shortens with "…"
    "myst.xref_missing",  # links to files of the repository, such as ../README.md; tests/test_docs.py checks them
    "ref.python",  # an annotation such as ``bytes`` is also the name of several attributes
]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4

# One page per package in docs/api, written at each build, so that a new module appears without further work.
apidoc_modules = [
    {
        "path": "../distill",
        "destination": "api",
        "follow_links": True,  # distill/tasks and distill/tools are symbolic links in a checkout
        "module_first": True,
        "automodule_options": {"members"},
    }
]
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
# A name is documented where it is defined, and not again where it is exported.
autodoc_default_options = {"members": True, "ignore-module-all": True}
# Signatures do not need these, and they are absent where the documentation is built without the extras.
autodoc_mock_imports = ["aiohttp", "ctranslate2", "libtpu", "openai", "t5x", "torch", "transformers"]
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_attr_annotations = False  # "*batch length", a shape, would be read as emphasis

html_theme = "furo"
html_title = project
