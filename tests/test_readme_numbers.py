"""The README's numbers and picture come from benchmarks/results.json: `readme.py write` there would change nothing.

May import: pytest, the standard library, benchmarks/readme.py. Do not break: the tests read the documents beside them,
and write none of them.
"""

import importlib
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def readme(monkeypatch):
    """The script as a module."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("readme")


@pytest.fixture
def measurements(readme):
    """What was measured."""
    return json.loads(readme.RESULTS.read_text(encoding="utf-8"))


def test_documents_have_the_numbers_of_the_raw_file(readme, measurements):
    for path, text in readme.texts(measurements).items():
        assert path.read_text(encoding="utf-8") == text, f"run `python benchmarks/readme.py write`: {path.name} is old"


def test_the_picture_was_drawn_from_the_raw_file(readme, measurements):
    picture = (ROOT / "docs" / "benchmark.png").read_bytes()
    assert readme.digest(measurements[0]).encode() in picture, "run `python benchmarks/readme.py write`"


def test_another_number_in_the_raw_file_changes_the_documents(readme, measurements):
    """Each number that a document names is taken from the file."""
    for line in measurements[0]["runs"][1]["results"]:
        if line["contestant"] == "fastembed" and line["ids"] == "zipf" and line["work"].endswith("+ Adam"):
            line["ms"] = 98765.0
    texts = readme.texts(measurements)
    assert texts[ROOT / "README.md"].count("98765") == 2  # the first bullet and the table
    assert texts[ROOT / "benchmarks" / "README.md"].count("98765") == 1


def test_the_machine_is_named(readme, measurements):
    name = measurements[0]["machine"]["name"]
    readme_text = (ROOT / "README.md").read_text(encoding="utf-8")
    benchmarks_text = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    assert name in readme_text
    assert all(one["machine"]["name"] in benchmarks_text for one in measurements)


def test_a_document_without_its_markers_is_an_error(readme):
    with pytest.raises(ValueError, match="one pair of markers <!--races-->"):
        readme.replaced("no markers", "races", "text")


def test_a_file_that_is_saved_is_read_as_it_was(readme, measurements, tmp_path):
    readme.save(tmp_path / "results.json", measurements)
    assert json.loads((tmp_path / "results.json").read_text()) == measurements
    assert (tmp_path / "results.json").read_text() == readme.RESULTS.read_text(encoding="utf-8")
