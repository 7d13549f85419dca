"""The documents: each public name has a place in the reference, and no link of the repository leads nowhere.

May import: the standard library, pytest, fastembed. Do not break: this needs no Sphinx; that the site is built without
a warning is for `sphinx-build`, and the programs on pages run in test_docstrings.
"""

import ast
import importlib.util
import inspect
import re
from pathlib import Path

import pytest

import fastembed

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
FILES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md"]
FILES += sorted(DOCS.rglob("*.md"))
# Public modules without an `__all__`. Of the first all classes and functions are for users, of the others these.
WHOLE = ["constraints", "formats", "interop", "regularizers", "schedules"]
PARTLY = {
    "ops": ["gather", "group", "parts", "pool", "reduce", "update"],
    "saving": ["save"],
    "serialization": ["deserialize", "serialize"],
}
INSIDE = {"fastembed.constraints.for_table", "fastembed.constraints.warn_of_columns"}
BRIDGES = ["jax", "keras", "torch"]


def documented():
    """The names with a place in the reference, each with its module: "fastembed.Table"."""
    names = []
    for page in sorted((DOCS / "api").glob("*.md")):
        module = None
        for kind, name in re.findall(r"^\.\. (\w+):: ([\w.]+)", page.read_text(encoding="utf-8"), re.MULTILINE):
            if kind == "currentmodule":
                module = name
            else:
                names.append(f"{module}.{name}")
    return names


def exported(name):
    """`__all__` of a bridge, which may not be importable here."""
    (package,) = importlib.util.find_spec(f"fastembed.{name}").submodule_search_locations
    for statement in ast.parse(Path(package, "__init__.py").read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and getattr(statement.targets[0], "id", "") == "__all__":
            return ast.literal_eval(statement.value)
    raise AssertionError(f"fastembed.{name} has no __all__")


def public():
    """The names that must have a place."""
    names = set()
    for name in fastembed.__all__:
        thing = getattr(fastembed, name)
        if not inspect.ismodule(thing) and name != "__version__":
            names.add(f"fastembed.{name}")
    for module in ("initializers", "optimizers"):
        names |= {f"fastembed.{module}.{name}" for name in getattr(fastembed, module).__all__}
    names.remove("fastembed.initializers.set_random_seed")  # fastembed.set_random_seed
    for module, some in PARTLY.items():
        names |= {f"fastembed.{module}.{name}" for name in some}
    for module in (getattr(fastembed, name) for name in WHOLE):
        own = [thing for thing in vars(module).values() if getattr(thing, "__module__", "") == module.__name__]
        own = [thing.__name__ for thing in own if inspect.isclass(thing) or inspect.isfunction(thing)]
        names |= {f"{module.__name__}.{name}" for name in own if name[0] != "_"} - INSIDE
    for module in BRIDGES:
        names |= {f"fastembed.{module}.{name}" for name in exported(module)}
    return names | {"fastembed.sklearn.EmbeddingTransformer"}


def test_each_public_name_has_one_place_in_the_reference():
    names = documented()
    assert len(names) == len(set(names))
    assert set(names) == public()


def test_all_modules_that_are_exported_were_looked_at():
    modules = {name for name in fastembed.__all__ if inspect.ismodule(getattr(fastembed, name))}
    assert modules == {*WHOLE, *PARTLY, "initializers", "optimizers", "layers"}
    assert {f"fastembed.{name}" for name in fastembed.layers.__all__} <= public()


def test_every_page_is_in_the_menu():
    shown = set()
    for page in (DOCS / "index.md", DOCS / "api" / "index.md"):
        for tree in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            shown |= {page.parent / f"{line}.md" for line in tree.splitlines() if line and line[0] != ":"}
    assert shown == {file for file in FILES if DOCS in file.parents} - {DOCS / "index.md"}


def places(file):
    """The anchors that viewers of Markdown give to headings of a file."""
    text = re.sub(r"```.*?```", "", file.read_text(encoding="utf-8"), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


def is_dead(file, link):
    """Whether a link in a file leads nowhere; what lies on other machines is not looked at."""
    if re.match(r"\w+:", link):
        return False
    target, _, place = link.partition("#")
    target = (file.parent / target) if target else file
    return not target.exists() or (bool(place) and place not in places(target))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_link_leads_nowhere(file):
    text = re.sub(r"```.*?```|`[^`]*`", "", file.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\(([^()\s]+)\)", text)
    assert not [link for link in links if is_dead(file, link)]


def test_the_estimate_on_a_page():
    """But for the memory that was free there."""
    (shown,) = re.findall(r"```\n(table .*?)```", (DOCS / "huge.md").read_text(encoding="utf-8"), re.DOTALL)
    needs = fastembed.estimate(1_000_000_000, 64, optimizer="adagrad")._replace(available=22_300_000_000)
    assert shown == f"{needs}\n"


def test_a_dead_link_is_seen():
    assert is_dead(DOCS / "index.md", "nowhere.md")
    assert is_dead(DOCS / "index.md", "start.md#nowhere")
    assert not is_dead(DOCS / "index.md", "start.md#save-and-serve")
