"""Operations whose allocations fail, one after the other: a failure is a MemoryError, changes nothing, leaks nothing.

    python tests/allocations.py            # compiles the library below, and starts itself with it

May import: fastembed, NumPy. Do not break: every allocation that the cores make in an operation, and NumPy for arrays,
fails once: the first alone, then the second alone, ..., until none is left to fail; what then comes out has the bits of
an operation in which none failed.

Linux with a C compiler: a library in LD_PRELOAD stands before malloc, calloc, realloc and free, and looks at who calls.
"""

import ctypes
import functools
import gc
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

C = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

static struct { uintptr_t low, high; } spans[16]; /* the code of the cores */
static int num_spans;
static long wanted = -1, met, held; /* what is to fail, what came since, and what the cores have not given back */

void fe_watch(uintptr_t low, uintptr_t high) {
    spans[num_spans].low = low, spans[num_spans].high = high;
    num_spans += num_spans < 15;
}
void fe_fail(long which) { met = 0, wanted = which; }
long fe_met(void) { return met; }
long fe_held(void) { return held; }

static int is_ours(void *caller) {
    for (int i = 0; i < num_spans; i++)
        if ((uintptr_t)caller >= spans[i].low && (uintptr_t)caller < spans[i].high)
            return 1;
    return 0;
}
static int fails(void) { return __atomic_fetch_add(&met, 1, __ATOMIC_RELAXED) == wanted; }
static void *kept(void *p) {
    __atomic_fetch_add(&held, p != NULL, __ATOMIC_RELAXED);
    return p;
}
#define NEXT(name) if (!next) *(void **)&next = dlsym(RTLD_NEXT, name)

void *malloc(size_t size) {
    static void *(*next)(size_t);
    NEXT("malloc");
    if (!is_ours(__builtin_return_address(0)))
        return next(size);
    return fails() ? NULL : kept(next(size));
}
void *calloc(size_t count, size_t size) {
    static void *(*next)(size_t, size_t);
    NEXT("calloc");
    if (!is_ours(__builtin_return_address(0)))
        return next(count, size);
    return fails() ? NULL : kept(next(count, size));
}
void free(void *p) {
    static void (*next)(void *);
    NEXT("free");
    if (p && is_ours(__builtin_return_address(0)))
        __atomic_fetch_add(&held, -1, __ATOMIC_RELAXED);
    next(p);
}

/* NumPy's memory of arrays, as PyDataMem_SetHandler takes it (NEP 49). */
static void *array(void *all, size_t size) { return fails() ? NULL : malloc(size); }
static void *zeros(void *all, size_t count, size_t size) { return fails() ? NULL : calloc(count, size); }
static void *longer(void *all, void *p, size_t size) { return fails() ? NULL : realloc(p, size); }
static void done(void *all, void *p, size_t size) { free(p); }
struct {
    char name[127];
    uint8_t version;
    void *all;
    void *(*array)(void *, size_t);
    void *(*zeros)(void *, size_t, size_t);
    void *(*longer)(void *, void *, size_t);
    void (*done)(void *, void *, size_t);
} fe_arrays = {"failing", 1, NULL, array, zeros, longer, done};
"""


def compiled(folder):
    """The library, made in a folder; None without a C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    source, library = pathlib.Path(folder, "fail.c"), pathlib.Path(folder, "fail.so")
    source.write_text(C)
    command = [
        compiler,
        "-O1",
        "-fno-builtin",
        "-fno-optimize-sibling-calls",
        "-shared",
        "-fPIC",
        "-o",
        library,
        source,
    ]
    subprocess.run([*command, "-ldl"], check=True)
    return library


if __name__ == "__main__" and "fail.so" not in os.environ.get("LD_PRELOAD", ""):
    with tempfile.TemporaryDirectory() as folder:
        library = str(compiled(folder))
        sys.exit(subprocess.run([sys.executable, *sys.argv], env={**os.environ, "LD_PRELOAD": library}).returncode)

import numpy as np  # noqa: E402

import fastembed  # noqa: E402
from fastembed import Embedding, EmbeddingBag, IndexedSlices, Ragged, Table, ops, optimizers  # noqa: E402

V, D, N = 300, 9, 6000  # more ids than one thread sorts, and a row with more of them than one thread sums
RNG = np.random.default_rng(1)
IDS = RNG.integers(0, V, N)
IDS[RNG.permutation(N)[:4500]] = 7
FEW = RNG.integers(0, V, 40)
SPLITS = np.arange(0, N + 1, 20)
WEIGHTS = RNG.uniform(0.5, 1, N).astype(np.float32)
UPSTREAM = RNG.standard_normal((N, D)).astype(np.float32)
FLOATS = RNG.standard_normal((V, D)).astype(np.float32)


def plain(storage="float32"):
    """The numbers of FLOATS in an array of a storage dtype."""
    table = ops.zeros((V, D), storage)
    ops.encode(ops.rows_of(table, dim=D), FLOATS)
    return table


def operations():
    """{name: a function that returns (what to watch: arrays and optimizers, the operation)}."""
    found = {}

    def case(name):
        return lambda function: found.setdefault(name, function)

    for storage in ("float32", "float64", "bfloat16", "float16", "int8", "int4", "int2"):
        _look_ups(case, storage)
    for storage in ("float32", "float64", "bfloat16"):
        _gradients(case, storage)
    _whole(case)
    _layers(case)
    for name, make in OPTIMIZERS.items():
        for kind in ("hot", "dense"):
            _step(case, f"{name}, {kind}", make, kind)
    return found


def _look_ups(case, storage):
    @case(f"gather {storage}")
    def gather():
        rows = ops.rows_of(plain(storage), dim=D)
        return [rows.octets_vb], lambda: ops.gather(rows, IDS)

    for combiner in ops.COMBINERS:

        @case(f"pool {storage} {combiner}")
        def pool(combiner=combiner):
            rows = ops.rows_of(plain(storage), dim=D)
            return [rows.octets_vb], lambda: ops.pool(rows, IDS, SPLITS, WEIGHTS, combiner)

        @case(f"weights_gradient {storage} {combiner}")
        def weights_gradient(combiner=combiner):
            rows = ops.rows_of(plain(storage), dim=D)
            splits_b1, upstream = SPLITS.astype(np.int64), UPSTREAM[: len(SPLITS) - 1]
            return [rows.octets_vb], lambda: ops.weights_gradient(rows, IDS, splits_b1, WEIGHTS, combiner, upstream)


def _gradients(case, storage):
    real = np.float64 if storage == "float64" else np.float32
    for combiner in ("sum", "mean", "sqrtn"):

        def parts(combiner=combiner):
            upstream = UPSTREAM[: len(SPLITS) - 1].astype(real)
            return ops.parts(IDS, upstream, SPLITS, WEIGHTS.astype(real), combiner)

        @case(f"reduce {storage} {combiner}")
        def reduce(parts=parts):
            return [], lambda: ops.reduce(parts(), ops.group(parts(), V))

        @case(f"update {storage} {combiner}")
        def update(parts=parts):
            table, state = plain(storage), np.zeros((V, 2 * D), real)
            hyper = {"learning_rate": 0.1, "beta_1": 0.9, "beta_2": 0.99, "epsilon": 1e-3}
            return [table, state], lambda: ops.update(table, parts(), "adam", hyper, state)

    @case(f"update_dense {storage}")
    def update_dense():
        table, state = plain(storage), np.zeros((V, D), real)
        hyper = {"learning_rate": 0.1, "epsilon": 1e-3}
        return [table, state], lambda: ops.update_dense(table, FLOATS, "adagrad", hyper, state)


def _whole(case):
    for storage in ("bfloat16", "int8", "int4"):

        @case(f"encode {storage}")
        def encode(storage=storage):
            rows = ops.rows_of(ops.zeros((V, D), storage), dim=D)
            return [rows.octets_vb], lambda: ops.encode(rows, FLOATS)

        @case(f"decode {storage}")
        def decode(storage=storage):
            rows = ops.rows_of(plain(storage), dim=D)
            return [rows.octets_vb], lambda: ops.decode(rows)

    @case("sums")
    def sums():
        return [], lambda: ops.sums(FLOATS)

    @case("constrain")
    def constrain():
        table, constraint = plain(), ops.RowConstraint(ops.NORM, 0.5, 1.0)
        return [table], lambda: ops.constrain(table, constraint)

    @case("fill")
    def fill():
        table = plain()
        return [table], lambda: ops.fill(table, "row", row=UPSTREAM[0])

    @case("table of float32")
    def table():
        return [], lambda: Table((V, D)).numpy()


def _layers(case):
    for make in (Embedding, EmbeddingBag):

        @case(f"{make.__name__} and its first step")
        def first(make=make):
            def run():
                layer = make(V, D, embeddings_initializer=fastembed.initializers.RandomUniform(seed=1))
                gradient = layer.gradient(FEW[:, None], UPSTREAM[:40, None] if make is Embedding else UPSTREAM[:40])
                optimizers.Adam().apply([gradient], [layer.embeddings])
                return layer.embeddings.numpy()

            return [], run

    @case("ragged")
    def ragged():
        def run():
            made = Ragged(IDS, SPLITS)
            return np.concatenate([made[::2].flat_values, made.to_padded().ravel()])

        return [], run

    @case("slices")
    def slices():
        one, two = (IndexedSlices(UPSTREAM, ids, (V, D)) for ids in (IDS, IDS[::-1]))
        return [], lambda: (one * 2.0 + two).to_dense()

    @case("quantize")
    def quantize():
        layer = Embedding(V, D, weights=FLOATS)
        layer.build()
        return [], lambda: (layer.quantize("int8") if layer.dtype == "float32" else None, layer(FEW))[1]

    @case("resize")
    def resize():
        layer = Embedding(V, D, fastembed.initializers.RandomUniform(seed=1))
        layer.build()
        adam = optimizers.Adam()
        adam.apply([layer.gradient(FEW, UPSTREAM[:40])], [layer.embeddings])

        def run():
            layer.resize(V + 50)
            return layer.embeddings.numpy()

        return [layer.embeddings, adam], run


# Their steps read what an earlier pass over the rows has written: a later pass may find no memory.
SEVERAL_PASSES = ("Lamb", "Adafactor", "Adam, ema")
OPTIMIZERS = {
    "SGD": lambda: optimizers.SGD(0.1),
    "SGD, momentum": lambda: optimizers.SGD(0.1, momentum=0.9, state_dtype="int8"),
    "Adam": lambda: optimizers.Adam(0.1, weight_decay=0.01),
    "Adam, dense": lambda: optimizers.Adam(0.1, untouched="dense"),
    "Adam, catch_up": lambda: optimizers.Adam(0.1, untouched="catch_up"),
    "Adam, bfloat16": lambda: optimizers.Adam(0.1, state_dtype="bfloat16"),
    "Adam, ema": lambda: optimizers.Adam(0.1, use_ema=True, ema_overwrite_frequency=2),
    "Adam, accumulation": lambda: optimizers.Adam(0.1, gradient_accumulation_steps=2),
    "Adagrad, clipnorm": lambda: optimizers.Adagrad(0.1, clipnorm=0.5),
    "Adagrad, global_clipnorm": lambda: optimizers.Adagrad(0.1, global_clipnorm=0.5),
    "Lamb": lambda: optimizers.Lamb(0.1),
    "Adafactor": lambda: optimizers.Adafactor(0.1),
    "RowwiseAdagrad": lambda: optimizers.RowwiseAdagrad(0.1),
    "LossScale": lambda: optimizers.LossScaleOptimizer(optimizers.Adam(0.1)),
}


def _step(case, name, make, kind):
    @case(f"step of {name}")
    def step():
        optimizer, dense = make(), FLOATS[:3].copy()
        tables = [Table((V, D), dtype) for dtype in ("float32", "bfloat16", "float64")]
        for table in tables:
            table.assign(FLOATS)
        if kind == "dense":
            gradients = [FLOATS, FLOATS, FLOATS]
        else:
            gradients = [
                IndexedSlices(UPSTREAM[: len(ids)], ids, (V, D)) for ids in [IDS if kind == "hot" else FEW] * 3
            ]
        if name.startswith(("SGD, momentum", "Adam, bfloat16")):  # no state_dtype for a float64 table
            tables, gradients = tables[:2], gradients[:2]

        def apply():
            optimizer.apply([*gradients, dense], [*tables, dense])

        apply()
        return [*tables, dense, optimizer], apply


def bits(watched):
    """All that can be seen of arrays, tables and optimizers."""
    found = []
    for one in watched:
        if isinstance(one, Table):
            found += [one.shape, one.memory.tobytes()]
        elif isinstance(one, np.ndarray):
            found.append(one.tobytes())
        else:
            numbers, variables = one.snapshot()
            found.append(repr(numbers))
            for kept in variables:
                small, arrays = kept.snapshot()
                found += [
                    repr(small),
                    kept.rounded,
                    *(v.tobytes() for v in [*kept.memory().values(), *arrays.values()]),
                ]
    return found


class Shim:
    """The library in LD_PRELOAD."""

    def __init__(self):
        of = ctypes.CDLL(None)
        self.fail, self.met, self.held = of.fe_fail, of.fe_met, of.fe_held
        self.fail.argtypes, self.met.restype, self.held.restype = [ctypes.c_long], ctypes.c_long, ctypes.c_long
        of.fe_watch.argtypes = [ctypes.c_size_t, ctypes.c_size_t]
        ops.core_of(np.dtype(np.float64))  # is there from now on
        for line in pathlib.Path("/proc/self/maps").read_text().splitlines():
            if re.search(r"r-xp .*fastembed/_core", line):
                of.fe_watch(*(int(end, 16) for end in line.split()[0].split("-")))
        python = ctypes.pythonapi
        python.PyCapsule_GetPointer.restype, python.PyCapsule_New.restype = ctypes.c_void_p, ctypes.py_object
        python.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
        python.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        api = python.PyCapsule_GetPointer(np._core._multiarray_umath._ARRAY_API, None)
        set_handler = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(
            ctypes.cast(api, ctypes.POINTER(ctypes.c_void_p))[304]  # PyDataMem_SetHandler
        )
        self._name = b"mem_handler"
        set_handler(python.PyCapsule_New(ctypes.addressof(ctypes.c_char.in_dll(of, "fe_arrays")), self._name, None))


def check(shim, make, may_change=False):
    """Lets each allocation of an operation fail. Returns how many failed, and what was wrong, a list."""
    watched, run = make()
    expected = result_bits(run()), bits(watched)
    del watched, run
    watched, run = make()
    before, faults, failed, which = bits(watched), [], 0, 0
    gc.collect()
    held = shim.held()
    while True:
        shim.fail(which)
        result, error = None, None
        try:
            result = run()
        except BaseException as caught:
            error = caught.with_traceback(None)
        made = shim.met()
        shim.fail(-1)
        if made <= which:  # there was none left to fail
            if error is not None:
                raise error
            break
        failed += 1
        if error is None:  # NumPy or the library can do without this one
            watched, run = make()
            before = bits(watched)
        else:
            if not isinstance(error, MemoryError):
                faults.append(f"allocation {which}: {error!r}")
            del error
            if shim.held() != held:
                gc.collect()
            if shim.held() != held and not watched_keeps(watched):
                faults.append(f"allocation {which}: {shim.held() - held} pieces of memory lost")
                held = shim.held()
            if bits(watched) != before:
                if not may_change:
                    faults.append(f"allocation {which}: something had changed")
                watched, run = make()
                before = bits(watched)
        which += 1
    if (result_bits(result), bits(watched)) != expected:
        faults.append("another result after the failures")
    return failed, faults


def watched_keeps(watched):
    """Whether one of them may keep memory of the core for later: groups of the last look-up."""
    return any(getattr(one, "debt", None) is not None for one in watched)


def result_bits(result):
    """The bits of what an operation returned."""
    if isinstance(result, tuple):
        return [result_bits(each) for each in result]
    return result.tobytes() if isinstance(result, np.ndarray) else result


def main(wanted=""):
    shim, total, wrong = Shim(), 0, []
    optimizers.history.plan = functools.lru_cache(optimizers.history.plan)  # a tenth of a second for each optimizer
    fastembed.set_num_threads(3)
    gc.collect()
    gc.freeze()  # what is there now is not looked at again and again
    for name, make in operations().items():
        if wanted in name:
            failed, faults = check(shim, make, any(several in name for several in SEVERAL_PASSES))
            total += failed
            wrong += faults
            print(*(f"{name}: {fault}\n" for fault in faults), sep="", end="", flush=True)
    print(f"{total} failed allocations, {len(wrong)} faults")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
