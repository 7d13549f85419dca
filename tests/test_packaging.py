"""What is shipped: metadata, the files of a wheel and of the source distribution, one version in one place.

Do not break: what is told of the installed distribution is read from its metadata; a test of the checkout's own files
says that it was skipped where they are not there.
"""

import importlib.metadata
import re
import subprocess
import sysconfig
import tomllib
from pathlib import Path

import numpy as np
import pytest

import fastembed
from fastembed import _core, _core64

ROOT = Path(__file__).parents[1]
NAME = "fastembed-cython"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


@pytest.fixture(scope="module")
def installed():
    """The distribution; not there where the tests run against a checkout."""
    try:
        found = importlib.metadata.distribution(NAME)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{NAME} is not installed")
    if found.read_text("WHEEL") is None:
        pytest.skip("these are notes of a build in the checkout")
    return found


@pytest.fixture(scope="module")
def tracked():
    """The files of the repository, by their paths from its root."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no git")
    if not (ROOT / ".git").exists() or result.returncode:
        pytest.skip("this is no checkout of the repository")
    return {name for name in result.stdout.split("\0") if name and (ROOT / name).exists()}


def version_of(text):
    """(1, 26) of "1.26"."""
    return tuple(int(number) for number in text.split(".")[:2])


# ---- the version -----------------------------------------------------------------------------------------------------


def test_the_installed_version_is_that_of_the_package(installed):
    assert installed.version == fastembed.__version__


def test_the_version_is_written_once():
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "fastembed._version.__version__"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", fastembed.__version__)


def test_the_changelog_has_the_version_at_its_top():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    titles = re.findall(r"^## \[(.+?)\]", text, re.MULTILINE)
    assert titles[:2] == ["Unreleased", fastembed.__version__]
    assert len(set(titles)) == len(titles)


# ---- metadata --------------------------------------------------------------------------------------------------------


def test_the_licence_is_named_and_there(installed):
    about = installed.metadata
    assert about["License-Expression"] == "BSD-3-Clause"
    assert about.get_all("License-File") == ["LICENSE"]
    (licence,) = [file for file in installed.files if file.name == "LICENSE"]
    assert licence.read_text(encoding="utf-8").startswith("BSD 3-Clause License")


def test_numpy_is_all_that_is_required(installed):
    always = [line for line in installed.requires if "extra ==" not in line]
    assert always == PROJECT["project"]["dependencies"] == ["numpy>=1.26"]
    assert version_of(np.__version__) >= (1, 26)


def test_each_extra_that_a_document_names_exists(installed):
    extras = set(installed.metadata.get_all("Provides-Extra"))
    assert extras == set(PROJECT["project"]["optional-dependencies"])
    for extra in extras:
        assert any(re.search(rf"extra == .{extra}\b", line) for line in installed.requires), extra
    named = set()
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for names in re.findall(r"(?:fastembed-cython|'\.)\[([a-z0-9,]+)\]", path.read_text(encoding="utf-8")):
            named.update(names.split(","))
    assert {"test", "examples", "keras"} <= named <= extras


def test_pythons_are_the_same_wherever_they_are_listed():
    """Those that wheels are tested on have a classifier, the oldest is the floor, and the stable ABI is its."""
    built = re.findall(r"cp(\d)(\d+)-", PROJECT["tool"]["cibuildwheel"]["build"])
    pythons = [f"{major}.{minor}" for major, minor in built]
    named = [line.rpartition(" ")[2] for line in PROJECT["project"]["classifiers"] if "Python :: 3." in line]
    assert pythons == named
    assert PROJECT["project"]["requires-python"] == f">={pythons[0]}"


# ---- files -----------------------------------------------------------------------------------------------------------


def test_a_wheel_holds_no_sources_of_the_core(installed):
    """And no tests: Python, stubs, the mark that it is typed, the compiled core, and on macOS its OpenMP are all."""
    suffixes = {".py", ".pyi", ".pyc", ".typed", ".dylib", Path(_core.__file__).suffix}
    ours = [file for file in installed.files if file.parts[0] == "fastembed"]
    assert {"__init__.py", "py.typed", "_core.pyi", Path(_core64.__file__).name} <= {file.name for file in ours}
    assert [str(file) for file in ours if file.suffix not in suffixes] == []
    others = {file.parts[0] for file in installed.files} - {"fastembed", "fastembed_cython.libs", ".."}
    assert [name for name in others if not re.match(r"fastembed_cython-[\d.]+(\.dist-info|-delvewheel)", name)] == []


def test_the_package_is_typed():
    folder = Path(fastembed.__file__).parent
    assert (folder / "py.typed").exists()
    assert (folder / "_core.pyi").exists()


def test_the_core_serves_all_later_pythons(installed):
    """It is of the stable ABI; free-threaded Pythons have none."""
    tags = re.findall(r"^Tag: (.*)$", installed.read_text("WHEEL"), re.MULTILINE)
    expected = r"cp3\d+-cp3\d+t-" if FREE_THREADED else "cp311-abi3-"
    assert tags
    assert [tag for tag in tags if not re.match(expected, tag)] == []
    for module in (_core, _core64):
        name = Path(module.__file__).name
        assert ".abi3." in name or name.endswith(".pyd") or FREE_THREADED


def test_the_source_distribution_holds_every_file(tracked, monkeypatch):
    """All but those of the repository's own upkeep, whose names begin with a dot."""
    egg_info = pytest.importorskip("setuptools.command.egg_info", reason="setuptools reads MANIFEST.in")
    files = egg_info.FileList()
    monkeypatch.chdir(ROOT)
    for line in (ROOT / "MANIFEST.in").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            files.process_template_line(line)
    always = {"LICENSE", "MANIFEST.in", "pyproject.toml", "setup.py"}  # setuptools takes them by itself
    hidden = {name for name in tracked if any(part.startswith(".") for part in Path(name).parts)}
    assert (set(files.files) & tracked) | always == tracked - hidden


def test_nothing_generated_is_in_the_repository(tracked):
    assert {"fastembed/_core.pyx", "setup.py"} <= tracked
    assert [name for name in tracked if re.search(r"_core\w*\.(c|html)$|\.(so|pyd|whl|gz|pyc)$", name)] == []
