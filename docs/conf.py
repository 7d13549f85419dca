"""How Sphinx makes the site: `pip install '.[docs]' && sphinx-build -W --keep-going -n docs build/docs`.

Do not break: nothing is fetched while it builds, and no framework need be installed. Docstrings are plain text with
`code` in it; what makes reStructuredText of them is here, so that they need no markup of its own.
"""

import importlib
import os
import re
from pathlib import Path

from sphinx.ext.autodoc.mock import mock

import fastembed

HERE = Path(__file__).parent
PAGES = {  # files of the repository that are pages
    HERE.parent / "CHANGELOG.md": HERE / "changelog.md",
    HERE.parent / "CONTRIBUTING.md": HERE / "contributing.md",
    HERE.parent / "benchmarks" / "README.md": HERE / "benchmarks.md",
}

BASES = [  # of classes of the bridges
    "keras.layers.Layer",
    "sklearn.base.BaseEstimator",
    "sklearn.base.TransformerMixin",
    "torch.nn.Module",
    "torch.optim.Optimizer",
]

project = "fastembed"
author = "the fastembed authors"
release = fastembed.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
smartquotes_action = "D"  # dashes alone: "skip" is a value
default_role = "py:obj"  # `Ragged` in a docstring is a link; what has no place in the reference is code
nitpick_ignore_regex = [("py:obj", ".*")]

html_theme = "furo"
html_title = f"fastembed {release}"
html_show_copyright = html_copy_source = html_show_sphinx = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
pygments_dark_style = "github-dark"
highlight_language = "text"  # of formulas and of what a shell prints

myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_use_param = False
napoleon_use_ivar = True

# The bridges are imported without their frameworks: base classes of these are empty, and their decorators do nothing.
with mock(["jax", "keras", "sklearn", "tensorflow", "torch", "fastembed.jax.ffi", "fastembed.keras.on_keras"]):
    import jax.tree_util
    import keras.saving

    for base in BASES:
        module, _, of_base = base.rpartition(".")
        setattr(importlib.import_module(module), of_base, type(of_base, (), {}))
    jax.tree_util.register_pytree_node_class = lambda cls: cls
    keras.saving.register_keras_serializable = lambda package: lambda cls: cls
    for bridge in ("jax", "keras", "sklearn", "torch"):
        importlib.import_module(f"fastembed.{bridge}")


def escaped(line):
    """A line of a docstring in which nothing but `code` has a meaning, several `code`s too."""
    parts = re.split(r"(`[^`]*`)", line)
    parts[::2] = [re.sub(r"[*|]|_\b", r"\\\g<0>", part) for part in parts[::2]]
    return re.sub(r"(`[^`]*`)(?=\w)", r"\1\\ ", "".join(parts))


def as_restructured_text(app, what, name, obj, options, lines):
    """Makes a docstring ready for napoleon, paragraph by paragraph."""
    made = ["..", ""] if what == "property" else []  # else it takes what stands before a colon for a type
    for text in "\n".join(lines).split("\n\n"):
        paragraph = text.split("\n")
        if re.match(r"    (?!>>>)", text) and made:  # a formula
            made += ["::", "", *paragraph, ""]
            continue
        if paragraph[0] == "Raises:":  # one error a line
            text = re.sub(r"\n {5,}", " ", "\n".join(paragraph))
            paragraph = re.sub(r"(?<=[.;]) (?=[\w, ]+Error: )", "\n    ", text).split("\n")
        examples = next((i for i, line in enumerate(paragraph) if line.lstrip().startswith(">>>")), len(paragraph))
        paragraph[:examples] = map(escaped, paragraph[:examples])
        made += [":returns:" if line == "Returns:" else line for line in paragraph] + [""]
    lines[:] = made


def at_the_top(app, env, node, contnode):
    """`Table` in a docstring of `fastembed.optimizers` is `fastembed.Table`."""
    target = node.get("reftarget", "")
    if re.match(r"[a-z]\w*\.", target):  # another package's
        return None
    page = node["refdoc"]
    return env.get_domain("py").resolve_xref(env, page, app.builder, "obj", f"fastembed.{target}", node, contnode)


def relinked(text, file, page):
    """The text of a file with its links as they are on a page: to pages, where files have one."""

    def link(found):
        target, mark, place = found[1].partition("#")
        path = (file.parent / target).resolve()
        if not target or not path.exists():
            return found[0]
        return f"]({os.path.relpath(PAGES.get(path, path), page.parent)}{mark}{place})"

    return re.sub(r"\]\(([^()\s]+)\)", link, text)


def on_the_site(app, name, source):
    """A paragraph that is a link to a file of the repository, or to a section of one, becomes its text."""
    page = Path(app.env.doc2path(name))

    def text_of(paragraph):
        found = re.fullmatch(r"\[[^]]*\]\((\.\./[^()#]+)#?([^()]*)\)", paragraph.strip())
        if not found:
            return relinked(paragraph, page, page)
        file = (page.parent / found[1]).resolve()
        app.env.note_dependency(str(file))
        text = file.read_text(encoding="utf-8")
        if found[2]:
            parts = re.split(r"^## (.*)\n", text, flags=re.MULTILINE)[1:]
            places = [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in parts[::2]]
            text = parts[2 * places.index(found[2]) + 1]
        return relinked(text, file, page)

    source[0] = "\n\n".join(map(text_of, source[0].split("\n\n")))


def setup(app):
    """Before napoleon, whose priority is 500."""
    app.connect("autodoc-process-docstring", as_restructured_text, priority=400)
    app.connect("missing-reference", at_the_top)
    app.connect("source-read", on_the_site)
