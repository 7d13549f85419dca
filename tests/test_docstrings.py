"""The examples in docstrings run and print what they say.

Do not break: an example may use `fastembed`, `np` and `directory`, a folder of its own, without an import.
"""

import doctest
import importlib
import pkgutil

import numpy as np
import pytest

import fastembed

MODULES = ["fastembed", *(f"fastembed.{found.name}" for found in pkgutil.iter_modules(fastembed.__path__))]


def examples(name, **names):
    module = importlib.import_module(name)
    return doctest.DocTestFinder(exclude_empty=True).find(
        module, extraglobs={"fastembed": fastembed, "np": np, **names}
    )


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
    found = [test.name for name in MODULES for test in examples(name) if test.examples]
    assert len(found) > 20
    assert len(set(found)) == len(found)  # none is counted twice
