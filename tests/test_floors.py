"""The floors of the house: imports go down, modules say what they are, and importing the package leaves no trace.

Do not break: imports are read from the source, those inside functions too; a new module has to be given a floor here.
"""

import ast
import importlib
import inspect
import re
import sys
from pathlib import Path

import pytest

import fastembed
from fastembed import _core, _core64

PACKAGE = Path(fastembed.__file__).parent
# From the roof to the ground; what stands on one floor may use each other.
FLOORS = [
    {"__init__", "__main__"},
    {"jax", "keras", "sklearn", "torch"},
    {"arrow", "bridge", "interop", "states"},
    {"_config", "formats", "layers"},
    {"checkpoint", "estimate", "saving"},
    {"constraints", "initializers", "optimizers", "regularizers", "schedules", "serialization"},
    {"ragged", "slices", "table"},
    {"carry", "lazy"},
    {"ops"},
    {"files"},
    {"_core", "_core64", "_version", "capsules", "dtypes", "memory", "threads"},
]
CALLERS = {"_core": "threads", "_core64": "ops.cores"}  # `threads` loads the core for `ops`
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}
FILES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
FILES = {name.removesuffix(".__init__"): path for name, path in FILES.items()}
MODULES = sorted(FILES)  # "ops", "layers", "layers.embedding", ...
EXTRAS = {  # imported inside functions
    "checkpoint.files": {"tqdm"},
    "formats.hdf5": {"h5py"},
    "interop": {"awkward", "pandas", "polars", "pyarrow", "tensorflow", "torch"},
    "__main__": {"tqdm"},
}
# What bridges are to; they import it at once, and nobody imports them.
BRIDGES = {"jax": {"jax"}, "keras": {"jax", "keras", "tensorflow", "torch"}, "sklearn": {"sklearn"}, "torch": {"torch"}}


def floor(module):
    return FLOOR[module.partition(".")[0]]


def tree(module):
    return ast.parse(FILES[module].read_text(encoding="utf-8"))


def imports(module):
    """(first name, name inside the package or None) of all imports of a module: ("fastembed", "layers.lora")."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            inside = node.module in ("fastembed", "fastembed.checkpoint", "fastembed.layers", "fastembed.formats")
            names = [f"{node.module}.{alias.name}" for alias in node.names] if inside else [node.module]
        else:
            continue
        for name in names:
            first, _, rest = name.partition(".")
            if first == "fastembed":
                while rest not in FILES and "." in rest:  # a name of a module
                    rest = rest.rpartition(".")[0]
            yield first, rest if first == "fastembed" else None


def test_all_modules_are_found():
    assert {"layers", "ops", "table", "saving"} <= set(MODULES)
    assert [name for name in MODULES if name.partition(".")[0] not in FLOOR] == []
    assert set(EXTRAS) <= set(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module):
    for first, name in imports(module):
        if first == "fastembed":
            assert floor(name or "__init__") >= floor(module), f"{module} imports {name}, which stands above it"
            assert module == CALLERS.get(name, module), f"{module} imports {name}, which only {CALLERS[name]} may"
        else:
            extras = EXTRAS.get(module, BRIDGES.get(module.partition(".")[0], ()))
            allowed = {"numpy", *sys.stdlib_module_names, *extras}
            assert first in allowed, f"{module} imports {first}"


CORES = {"_core": _core, "_core64": _core64}


@pytest.mark.parametrize("module", [*MODULES, *CORES])
def test_modules_say_what_they_are(module):
    """And import no more of the package than they say."""
    text = CORES[module].__doc__ if module in CORES else ast.get_docstring(tree(module))
    if module == "_version":  # a number
        return
    summary, _, rest = text.partition("\n\n")
    assert len(summary) > 20
    assert "Do not break: " in rest
    allowed = re.search(r"May import: (.*?\.)(\s|$)", rest, re.DOTALL).group(1)
    if module not in CORES:
        for name in {name for _, name in imports(module) if name} - {"_version"}:
            below = "what stands below" in allowed and floor(name) > floor(module)
            own = name.rpartition(".")[2]
            assert below or re.search(rf"\b({own}|everything)\b", allowed), f"{module} imports {name}"


# ---- public names ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", fastembed.__all__)
def test_public_names(name):
    thing = getattr(fastembed, name)
    if name == "__version__":
        assert re.fullmatch(r"\d+\.\d+\.\d+\S*", thing)
        return
    assert thing.__doc__
    if callable(thing):
        assert "Example:" in thing.__doc__
        arguments = [p for p in inspect.signature(thing).parameters if p not in ("self", "args", "kwargs")]
        assert "Args:" in thing.__doc__ or not arguments
        assert [argument for argument in arguments if argument not in thing.__doc__] == []


def test_all_is_complete():
    """Nothing else is public, except the modules themselves."""
    names = {name for name in vars(fastembed) if not name.startswith("_")}
    assert names - set(MODULES) <= set(fastembed.__all__)
    assert len(set(fastembed.__all__)) == len(fastembed.__all__)


def public(module):
    """The public classes and functions that a module itself makes, and their public methods and properties."""
    for name, thing in vars(module).items():
        if name.startswith("_") or getattr(thing, "__module__", None) != module.__name__ or not callable(thing):
            continue
        yield f"{module.__name__}.{name}", thing
        for inner, member in vars(thing).items() if inspect.isclass(thing) else ():
            if not inner.startswith("_") and (callable(member) or isinstance(member, (property, classmethod))):
                yield f"{module.__name__}.{name}.{inner}", getattr(thing, inner)


def test_everything_public_has_a_docstring():
    """Its own, or for a method the one it inherits."""
    names = [name for name in MODULES if name.partition(".")[0] not in {"__init__", *BRIDGES}]  # theirs: in their tests
    modules = [importlib.import_module(f"fastembed.{name}") for name in names]
    found = [pair for module in modules for pair in public(module)]
    assert len(found) > 60
    assert [name for name, thing in found if not inspect.getdoc(thing)] == []


# ---- what an import leaves behind --------------------------------------------------------------------


def test_no_framework_is_imported(run_python):
    program = """
        import sys
        import fastembed
        fastembed.formats.load
        print(sorted({name.partition(".")[0] for name in sys.modules} - sys.stdlib_module_names))
        print(sorted(name for name in sys.modules if name.startswith("fastembed.formats.")))
    """
    imported, formats = map(ast.literal_eval, run_python(program).splitlines())
    frameworks = {"torch", "keras", "tensorflow", "jax", "scipy", "pandas", "numba", "tqdm", "matplotlib", "Cython"}
    assert set(imported) & (frameworks | set().union(*EXTRAS.values())) == set()
    assert {"numpy", "fastembed"} <= set(imported)
    assert formats == []


def test_nothing_lasts(run_python):
    """Environment, threads, floating-point mode, signals, warnings: all as before the import."""
    program = """
        import os
        import signal
        import sys
        import threading
        import warnings
        import numpy as np

        def state():
            tiny = np.array([1e-40, 3e-310], dtype=np.float64).astype(np.float32)[0]
            tasks = len(os.listdir("/proc/self/task")) if sys.platform == "linux" else 0
            handlers = [signal.getsignal(number) for number in signal.valid_signals()]
            subnormal = [float(tiny * np.float32(0.5)), float(np.float64(5e-324) * 1.0)]
            seen = []
            other = threading.Thread(target=lambda: seen.append(float(tiny * np.float32(0.5))))
            other.start()
            other.join()
            return {
                "environment": dict(os.environ),
                "threads": (tasks, threading.active_count()),
                "errors": np.geterr(),
                "subnormal": subnormal + seen,
                "handlers": handlers,
                "warnings": list(warnings.filters),
                "folder": os.getcwd(),
                "random": np.random.get_state()[1].tolist(),
            }

        # This process inherits what its parent's import may have set.
        for name in set(os.environ) - {"PATH", "PYTHONPATH", "HOME", "LD_LIBRARY_PATH", "SYSTEMROOT", "TEMP"}:
            del os.environ[name]
        before = state()
        assert min(before["subnormal"]) > 0
        import fastembed
        after = state()
        print([key for key in before if before[key] != after[key]])
    """
    assert run_python(program) == "[]\n"


def test_no_floating_point_mode_in_any_thread(run_python):
    """Neither a look-up nor a step flushes subnormals, in its own threads or elsewhere afterwards."""
    program = """
        import threading
        import numpy as np
        import fastembed
        from fastembed import ops

        fastembed.set_num_threads(4)
        table = np.full((5000, 64), 1e-40, np.float32)
        ids = np.arange(50_000) % 5000
        splits = np.arange(50_001)
        assert (ops.gather(table, ids) == table[0, 0]).all()
        half = ops.pool(table, ids, splits, np.full(50_000, 0.5))
        assert (half == table[0, 0] / 2).all() and half[0, 0] > 0
        ops.update(table, ops.parts(np.arange(5000), np.full((5000, 64), 5e-41)), "sgd", {"learning_rate": 1.0})
        assert (table == np.float32(1e-40) - np.float32(5e-41)).all() and table[0, 0] > 0
        seen = []
        other = threading.Thread(target=lambda: seen.append(np.float32(1e-40) * np.float32(0.5)))
        other.start()
        other.join()
        assert seen[0] > 0
        print("good")
    """
    assert run_python(program) == "good\n"


def test_the_other_fastembed(tmp_path, run_python):
    """Where the distribution `fastembed` lies in the same folder, the import says so, and what to do."""
    copy = tmp_path / "fastembed"
    (copy / "late_interaction").mkdir(parents=True)
    (copy / "__init__.py").write_text((PACKAGE / "__init__.py").read_text(encoding="utf-8"), encoding="utf-8")
    program = """
        import sys
        sys.path.insert(0, sys.argv[1])
        try:
            import fastembed
        except ImportError as error:
            print(error)
    """
    message = run_python(program, tmp_path)
    assert "pip uninstall fastembed && pip install --force-reinstall --no-deps fastembed-cython" in message
