"""Types: the stubs say what the code has, a user's program passes a strict checker, and mistakes do not.

Needs mypy, which is in the extra `dev`. Do not break: mypy finds the package where Python does, as it does for users,
and never the checkout because it happens to stand there.
"""

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from peers import need

import fastembed

HERE = Path(__file__).parent
PACKAGE = Path(fastembed.__file__).parent
CONFIG = HERE.parent / "pyproject.toml"
BRIDGES = ("jax", "keras", "sklearn", "torch")
# Modules without stubs, as users have no business with them; and what stands in a folder of the package, whose public
# names the folder itself has.
PRIVATE = ("__main__", "arrow", "capsules", "carry", "files", "lazy", "memory", "states", r"[a-z]+\.[a-z0-9_]+")
DIFFERENCES = (
    "_types",  # names for stubs alone
    r"_core(64)?\.__(reduce_cython|setstate_cython|test)__",  # what Cython adds
    r"ragged\.Ragged\.__array__",  # it raises: to a checker, a Ragged is no array
)


@pytest.fixture(scope="module")
def check(tmp_path_factory):
    """Runs mypy, or a module of it, away from the checkout; returns the exit code, and what was printed."""
    need("mypy")
    folder = tmp_path_factory.mktemp("mypy")

    def check(*arguments, module="mypy", path=""):
        environment = {**os.environ, "MYPY_CACHE_DIR": str(folder / "cache"), "MYPYPATH": str(path)}
        command = [sys.executable, "-m", module, *map(str, arguments)]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    return check


@pytest.fixture(scope="module")
def stubs(tmp_path_factory):
    """A folder with the stubs alone: beside them mypy would look into code that has no types."""
    folder = tmp_path_factory.mktemp("stubs")
    for path in (PACKAGE / "py.typed", *PACKAGE.rglob("*.pyi")):
        copy = folder / path.relative_to(PACKAGE.parent)
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(path, copy)
    return folder


def test_typed():
    assert (PACKAGE / "py.typed").is_file()


def test_stubs_are_strict(check, stubs):
    code, printed = check("--config-file", CONFIG, stubs / "fastembed")
    assert code == 0, printed


def test_stubs_are_true(check, stubs, tmp_path):
    """Modules, the cores too, have the names, arguments and defaults that the stubs say; and nothing else is public."""
    missing = [name for name in BRIDGES if find_spec(name) is None]
    allowed = tmp_path / "allowed"
    allowed.write_text("".join(rf"fastembed\.{name}" + "\n" for name in (*DIFFERENCES, *PRIVATE, *missing)))
    how = ("--allowlist", allowed, "--mypy-config-file", without_frameworks(tmp_path), "--ignore-disjoint-bases")
    code, printed = check("fastembed", *how, module="mypy.stubtest", path=stubs)
    assert code == 0, printed


def without_frameworks(folder):
    """A configuration with which mypy does not read the frameworks, which takes it a minute."""
    config = folder / "mypy.ini"
    skipped = "".join(f"[mypy-{name}.*]\nfollow_imports = skip\n" for name in BRIDGES)
    config.write_text(f"[mypy]\nignore_missing_imports = True\n{skipped}")
    return config


def program(name):
    """A program of a user, which may need the framework of that name."""
    if name in BRIDGES:
        need(name)
    return HERE / f"typed_{name}.py"


@pytest.mark.parametrize("name", ["program", *BRIDGES])
def test_a_program_passes(name, check):
    code, printed = check("--strict", "--config-file=", program(name))
    assert code == 0, printed


@pytest.mark.parametrize("name", ["program", *BRIDGES])
def test_a_program_runs(name, run_python, tmp_path):
    """What passes is true: the types are promises of what comes back."""
    launcher = "import runpy, sys; sys.argv[:] = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    assert run_python(launcher, program(name), tmp_path, timeout=300).endswith("done\n")


def test_mistakes_are_found(check):
    path, expected = HERE / "typed_mistakes.py", []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        codes = re.search(r"  # ([a-z-]+(, [a-z-]+)*)$", line)
        expected += [(number, code) for code in (codes[1].split(", ") if codes else [])]
    assert len(expected) > 40
    _, printed = check("--strict", "--config-file=", path)
    found = re.findall(r"^.*typed_mistakes\.py:(\d+): error: .*\[([a-z-]+)\]$", printed, re.MULTILINE)
    assert [(int(number), code) for number, code in found] == expected, printed


def test_a_bridge_without_its_framework(check, tmp_path):
    """A program passes that names a bridge whose framework is missing, or whose types a checker does not follow."""
    path = tmp_path / "program.py"
    path.write_text("import fastembed.torch\nbag = fastembed.torch.EmbeddingBag(10, 4, mode='sum')\n")
    code, printed = check("--strict", "--config-file", without_frameworks(tmp_path), path)
    assert code == 0, printed
