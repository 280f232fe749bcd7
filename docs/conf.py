"""The configuration of Sphinx. ``tox -e docs`` builds the documentation, and treats warnings as errors."""

from __future__ import annotations

import asgi_ipc

project = "asgi_ipc"
author = "asgi_ipc maintainers"
version = release = asgi_ipc.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build"]
nitpicky = True
nitpick_ignore = [
    # Other projects' classes. Links to them need the network when the documentation is built.
    ("py:class", "collections.abc.Iterable"),
    ("py:class", "collections.abc.Mapping"),
    ("py:exc", "pytest.UsageError"),
]

# -- the API reference ----------------------------------------------------------------------------------------------

add_module_names = False  # the page says where to import from
autodoc_preserve_defaults = True  # mode=0o600, not mode=384
maximum_signature_line_length = 88  # a longer signature has one parameter on each line
napoleon_use_ivar = True  # "Attributes:" becomes a compact list
napoleon_attr_annotations = False  # only some attributes are annotated, so none shows its type

# -- HTML -----------------------------------------------------------------------------------------------------------

html_theme = "furo"
html_title = f"asgi_ipc {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_show_sphinx = False
html_theme_options = {
    "source_repository": "https://github.com/django/asgi_ipc/",
    "source_branch": "main",
    "source_directory": "docs/",
}
copybutton_exclude = ".linenos, .gp, .go"  # the button copies neither prompts nor output
