"""The examples in docstrings run and print what they say, and so does the README's.

Do not break: an example may use `fastembed`, `np` and `directory`, a folder of its own, without an import; it needs
NumPy alone.
"""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import numpy as np
import pytest
from peers import need

import fastembed

BRIDGES = ("jax", "keras", "sklearn", "torch")
MODULES = ["fastembed", *(found.name for found in pkgutil.walk_packages(fastembed.__path__, "fastembed."))]


def framework(name):
    """The first part of a module's name inside the package."""
    return name.split(".")[1] if "." in name else name


def examples(name, **names):
    if framework(name) in BRIDGES:
        need(framework(name))
    module = importlib.import_module(name)
    return doctest.DocTestFinder(exclude_empty=True).find(
        module, extraglobs={"fastembed": fastembed, "np": np, **names}
    )


# Keras does not know NumPy 2.4.
of_keras = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@of_keras
@pytest.mark.parametrize("name", MODULES)
def test_examples(name, tmp_path):
    runner = doctest.DocTestRunner()
    for number, test in enumerate(examples(name)):
        directory = tmp_path / str(number)
        directory.mkdir()
        test.globs["directory"] = str(directory)
        printed = []
        runner.run(test, out=printed.append)
        assert not printed, "".join(printed)


def test_there_are_examples():
    names = [name for name in MODULES if framework(name) not in BRIDGES]  # which may not be importable here
    found = [test.name for name in names for test in examples(name) if test.examples]
    assert len(found) > 20
    assert len(set(found)) == len(found)  # none is counted twice


def pages():
    """The program of each page of docs/ that has one: its examples, one after the other."""
    for page in sorted((Path(__file__).parents[1] / "docs").rglob("*.md")):
        blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
        if blocks:
            yield pytest.param("\n".join(blocks), id=page.name)


@of_keras
@pytest.mark.parametrize("program", list(pages()))
def test_pages(program, tmp_path, monkeypatch):
    for name in re.findall(r"^import (gensim|jax|keras|sklearn|torch)$", program, re.MULTILINE):
        need(name)
    monkeypatch.chdir(tmp_path)
    exec(program, {})


def test_readme(tmp_path, monkeypatch):
    """The example of the README, on a smaller table."""
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert program.count("10_000_000") == 1
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(program.replace("10_000_000", "10_000"), names)
    assert np.array_equal(names["served"](names["ids"]), names["words"](names["ids"]))
    assert np.abs(names["error"]).max() < 1
