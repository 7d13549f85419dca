"""Whatever comes in - ids, arguments, configs, files, orders of calls - gives what the oracle says, or a clear error.

    python tests/fuzz.py --minutes 30 [--target NAME]    # other cases each time; says how to repeat a failure
    python tests/fuzz.py --target NAME --seed 7          # repeats it

May import: fastembed, NumPy, hypothesis, reference. Do not break: an error is one of `CLEAR`, with a
message of our own, and nothing was written then; KeyError, AttributeError, struct.error, RecursionError and their like
are faults, as are a crash, a hang, and memory far beyond what a file has in it.

The suite runs each target a little, always with the same cases (tests/test_fuzz.py); each crash found has a test of its
own beside those of what it was found in.
"""

import argparse
import contextlib
import copy
import functools
import gzip
import io
import json
import os
import pathlib
import pickle
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
import zlib
from unittest import mock

import hypothesis
import numpy as np
import reference as ref
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

import fastembed
from fastembed import (
    Checkpoint,
    Embedding,
    EmbeddingBag,
    IndexedSlices,
    Ragged,
    constraints,
    formats,
    initializers,
    ops,
    optimizers,
    regularizers,
    schedules,
    serialization,
)

try:
    import resource
except ImportError:  # Windows
    resource = None

CLEAR = (ValueError, TypeError, IndexError, MemoryError)
V, D = 11, 3
SECONDS = 20  # for one example
ROOM = 512 << 20  # bytes of address space that reading a small file may take
seeds = st.integers(0, 2**32)


class Fault(Exception):
    """An error that nobody should see."""


def outcome(function, *also):
    """What the function returns, or its error if that is one of CLEAR or `also` with a message; else raises Fault."""
    try:
        return function()
    except BaseException as error:
        clear = type(error) in (*CLEAR, *also) or isinstance(error, OSError)
        if not clear or not str(error):
            raise Fault(f"{type(error).__name__}: {error}") from error
        if type(error) in (ValueError, TypeError, IndexError) and not ours(error):
            raise Fault(f"no message of ours: {type(error).__name__}: {error}") from error
        return error


def ours(error):
    """Whether a message says the rule, or what it was."""
    text = str(error)
    return any(word in text for word in ("must", "Received", "Unknown", "Could not interpret", "cannot", "too many"))


@contextlib.contextmanager
def bounded():
    """Inside, memory is limited to ROOM more than there is, and time to SECONDS; not on Windows."""
    if resource is None:
        yield
        return
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) if sys.platform == "linux" else 0
    before = resource.getrlimit(resource.RLIMIT_AS)

    def too_long(*_):
        raise Fault(f"took more than {SECONDS} seconds")

    old = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(SECONDS)
    if pages:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)


# ---- ids, splits, weights, outputs -----------------------------------------------------------------------------------

EDGES = [-1, V, V - 1, 2**31 - 1, 2**31, -(2**31), 2**32, 2**53 + 1, 2**63 - 1, -(2**63)]
NUMBERS = ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", ">i4", ">i8", ">u8", "f2", "f4", "f8", ">f4", "g"]
OTHERS = ["?", "c8", "O", "U3", "S3", "M8[s]", "m8[s]", "i4,i4", "V2"]
shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)


@st.composite
def strided(draw, array):
    """The same numbers with other strides: every second one, backwards, in Fortran's order, read-only, a list."""
    array = np.asarray(array)
    how = draw(st.sampled_from(["as it is", "every second", "backwards", "Fortran", "read-only", "list"]))
    if how == "list" and array.size:  # a list does not tell the shape of nothing
        return array.tolist()
    if how == "every second":
        wide = np.zeros([2 * n for n in array.shape], array.dtype)
        view = wide[(..., *(slice(None, None, 2) for _ in array.shape))]
    elif how == "backwards":
        view = array.copy()[(..., *(slice(None, None, -1) for _ in array.shape))]
    elif how == "Fortran":
        view = array.copy(order="F")
    else:
        view = array.copy()
    view[...] = array
    view.flags.writeable = how != "read-only"
    return view


@st.composite
def arrays(draw, shapes=shapes, good=0.7):
    """An array of any dtype, whose numbers are mostly small."""
    shape = draw(shapes)
    dtype = np.dtype(draw(st.sampled_from(NUMBERS if draw(st.floats(0, 1)) < good else OTHERS)))
    values = np.random.default_rng(draw(seeds)).integers(0, V, shape)
    if dtype.kind in "OUSMmV?c" or values.size == 0:
        return draw(strided(np.zeros(shape, dtype) if dtype.kind == "V" else values.astype(dtype)))
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        array = values.astype(dtype)
        for _ in range(draw(st.integers(0, 2)) * draw(st.booleans())):
            edge = draw(st.sampled_from([*EDGES, 0.5, np.nan, np.inf, -0.0, 1e300]))
            if dtype.kind == "f" or (edge == edge and abs(edge) < 1e300 and edge == int(edge)):
                at = draw(st.integers(0, values.size - 1))
                array.reshape(-1)[at] = np.asarray(edge).astype(dtype)
    return draw(strided(array))


def meant(ids):
    """The rows that ids mean, int64, or the class of the error that they deserve."""
    try:
        array = np.asarray(ids)
    except ValueError:
        return ValueError
    if array.size == 0 and array.dtype.kind == "f" and not isinstance(ids, np.ndarray):
        return np.zeros(array.shape, np.int64)
    if array.dtype.kind == "f" and array.dtype.itemsize <= 8:
        most = {2: 2**11, 4: 2**24, 8: 2**53}[array.dtype.itemsize]
        if not all(np.isfinite(x) and x == np.floor(x) and abs(x) <= most for x in array.ravel().tolist()):
            return ValueError
    elif array.dtype.kind not in "iu":
        return TypeError
    numbers = [int(x) for x in array.ravel().tolist()]
    return np.array(numbers, np.int64).reshape(array.shape) if all(0 <= x < V for x in numbers) else IndexError


junk = st.none() | st.booleans() | st.text(max_size=3) | st.integers() | st.floats() | st.just({}) | st.just(object())
nested_lists = st.recursive(st.integers(-1, V) | st.integers(), lambda inner: st.lists(inner, max_size=3), max_leaves=8)
any_ids = arrays() | nested_lists | junk


class World:
    """A layer, its bag, an optimizer that has trained both, and the numbers of the table."""

    def __init__(self, combiner="sum"):
        rng = np.random.default_rng(3)
        self.table = rng.standard_normal((V, D)).astype(np.float32)
        self.layer, self.bag = Embedding(V, D, weights=self.table), EmbeddingBag(V, D, combiner, weights=self.table)
        self.tables = [self.layer.embeddings, self.bag.embeddings]
        self.sgd = optimizers.SGD(0.5, momentum=0.5)
        self.sgd.build(self.tables)

    def bits(self, *arrays):
        kept = [kept.memory() for kept in self.sgd.snapshot()[1]]
        states = [x.tobytes() for one in kept for x in one.values()]
        return [x.tobytes() for x in (*(t.numpy() for t in self.tables), *arrays)], states, self.sgd.iterations


def ids(data):
    """Ids of every kind, in look-ups, gradients and updates."""
    world, given = World(), data.draw(any_ids, label="ids")
    expected, before = meant(given), world.bits()
    fails = isinstance(expected, type)

    def check(result, wanted=None):
        if fails:
            assert isinstance(result, expected), f"{expected} expected: {result!r}"
        elif wanted is not None:
            assert np.array_equal(result, wanted), result

    check(outcome(lambda: world.layer(given)), None if fails else world.table[expected])
    check(outcome(lambda: ops.gather(world.table, given)), None if fails else world.table[expected])
    shape = () if fails else expected.shape
    upstream = np.ones((*shape, D), np.float32)
    gradient = outcome(lambda: world.layer.gradient(given, upstream))
    if isinstance(gradient, Exception):
        assert fails, gradient
    else:
        error = outcome(lambda: world.sgd.apply([gradient], [world.layer.embeddings]))
        if not fails:
            assert error is None, error
            counts = np.bincount(expected.ravel(), minlength=V)[:, None]
            np.testing.assert_allclose(world.layer.embeddings.numpy(), world.table - 0.5 * counts, atol=1e-5)
            return
        assert isinstance(error, expected), error
    assert world.bits() == before


splits_of = st.lists(st.integers(-1, 9), max_size=6) | st.lists(st.integers(0, 4), max_size=5).map(
    lambda lengths: np.cumsum([0, *lengths]).astype(np.int32)
)


def bags(data):
    """Ids, splits, weights and outputs of bags, of which each may be wrong."""
    world = World(data.draw(st.sampled_from(list(ops.COMBINERS)), label="combiner"))
    combiner = world.bag.combiner
    flat = data.draw(arrays(st.tuples(st.integers(0, 9)), 0.95) | any_ids, label="ids")
    splits = data.draw(splits_of | arrays(st.tuples(st.integers(0, 5))), label="splits")
    n = np.size(flat) if not isinstance(flat, list) else len(flat)
    weights = data.draw(st.none() | st.just(np.full(n, 0.5)) | arrays(), label="weights")
    bags = max(len(splits) - 1, 0) if np.ndim(splits) == 1 else 0
    out = data.draw(st.none() | st.just((bags, D)).flatmap(outputs) | arrays(), label="out")
    if isinstance(out, str):
        out = world.bag.embeddings.numpy()[:bags]  # overlaps the table
    upstream = data.draw(st.just(np.ones((bags, D), np.float32)) | arrays(), label="upstream")
    watched = [out] if isinstance(out, np.ndarray) else []
    before = world.bits(*watched)
    try:
        right = np.asarray(splits)
        right = right.ndim == 1 and right.dtype in (np.int32, np.int64) and right.size > 0 and right[0] == 0
        right = right and (np.diff(splits) >= 0).all() and splits[-1] == n and np.ndim(flat) == 1
    except (ValueError, OverflowError):
        right = False
    made = outcome(lambda: Ragged(flat, splits))
    expected = meant(flat)
    if right and not isinstance(expected, type):
        assert isinstance(made, Ragged), made
    if not isinstance(made, Ragged):
        return
    result = outcome(lambda: world.bag(made, weights, out=out))
    if isinstance(result, Exception):
        assert world.bits(*watched) == before
    else:
        assert not isinstance(expected, type), f"{flat!r} was accepted"
        given = None if weights is None else np.asarray(weights)
        wanted = ref.pool(world.table, expected, splits, given, combiner)
        np.testing.assert_allclose(result, wanted, rtol=1e-4, atol=1e-4)
    table = world.bag.embeddings.numpy()
    np.copyto(table, world.table)
    before = world.bits()
    gradient = outcome(lambda: world.bag.gradient(made, upstream, weights))
    if not isinstance(gradient, Exception):
        dense = outcome(lambda: gradient.to_dense())
        if isinstance(dense, Exception):
            assert isinstance(expected, type), dense
        else:
            numbers = [None if x is None else np.asarray(x) for x in (weights, upstream)]
            wanted, _ = ref.pool_gradient(world.table, expected, splits, numbers[1], numbers[0], combiner)
            np.testing.assert_allclose(dense, wanted, rtol=1e-4, atol=1e-4)
    outcome(lambda: world.bag.weights_gradient(made, upstream, weights))
    assert world.bits() == before


def outputs(shape):
    """Arrays to write to, some of them wrong; "table": the table itself."""
    kinds = ["f4", "f8", "i4", "O", ">f4"]
    some = st.sampled_from(kinds).flatmap(lambda kind: strided(np.full(shape, 7, kind)))
    return st.just(np.full(shape, 7, np.float32)) | some | st.just("table")


def ragged(data):
    """The makers of Ragged: what comes out keeps its rules, and goes back to lists."""
    values = data.draw(arrays() | nested_lists, label="values")
    about = data.draw(arrays(st.tuples(st.integers(0, 6))) | st.lists(st.integers(-1, 6), max_size=6), label="about")
    makers = {
        "splits": lambda: Ragged(values, about),
        "lengths": lambda: Ragged.from_row_lengths(values, about),
        "rowids": lambda: Ragged.from_value_rowids(values, about, data.draw(st.none() | st.integers(-1, 9))),
        "padded": lambda: Ragged.from_padded(values, row_lengths=about),
        "padding": lambda: Ragged.from_padded(values, padding=0),
        "lists": lambda: Ragged.from_lists(values),
        "typed": lambda: Ragged.from_lists(values, dtype=data.draw(st.sampled_from(["i4", "u1", "f4", "i8"]))),
        "nested": lambda: Ragged(Ragged(values, about), data.draw(splits_of)),
    }
    made = outcome(makers[data.draw(st.sampled_from(list(makers)))])
    if isinstance(made, Exception):
        return
    for splits, inner in zip(made.nested_row_splits, [*made.nested_row_splits[1:], None], strict=True):
        assert splits.dtype in (np.int32, np.int64)
        assert splits[0] == 0
        assert (np.diff(splits) >= 0).all()
        assert splits[-1] == (len(made.flat_values) if inner is None else len(inner) - 1)
    lists = made.to_list()
    assert len(lists) == len(made)
    at = data.draw(st.integers(-9, 9) | st.slices(6) | arrays(st.tuples(st.integers(0, 4))) | junk, label="index")
    found = outcome(lambda: made[at])
    if isinstance(at, slice):
        assert repr(found.to_list()) == repr(lists[at])
    padded = outcome(made.to_padded)
    if not isinstance(padded, Exception) and made.ragged_rank == 1 and made.ndim == 2:
        assert repr([row[: len(lists[i])] for i, row in enumerate(padded.tolist())]) == repr(lists)


# ---- configs ---------------------------------------------------------------------------------------------------------


@functools.cache
def known_configs():
    """(how to make an object, its config) of everything that has one."""
    found = []
    for version in (2, 3):
        layer = Embedding(
            V, D, initializers.TruncatedNormal(seed=1), regularizers.L1L2(0.1, 0.2), "l2", constraints.UnitNorm(1), True
        )
        found.append((Embedding.from_config, layer.get_config(version)))
        found.append((serialization.deserialize, serialization.serialize(layer, version)))
        found.append((EmbeddingBag.from_config, EmbeddingBag(V, D, "max", padding_idx=1).get_config(version)))
        for module in (initializers, regularizers, constraints):
            for cls in vars(module).values():
                if isinstance(cls, type) and issubclass(cls, serialization.Configurable):
                    with contextlib.suppress(
                        TypeError, ValueError, NotImplementedError
                    ):  # it needs arguments, or is a base
                        found.append((module.get, serialization.serialize(cls(), version)))
        for name in optimizers.__all__:
            cls = getattr(optimizers, name)
            if isinstance(cls, type) and name not in ("Optimizer", "LossScaleOptimizer"):
                found.append((optimizers.get, serialization.serialize(cls(), version)))
        rate = schedules.CosineDecay(0.1, 10)
        scaled = optimizers.LossScaleOptimizer(optimizers.Adam(rate))
        found.append((optimizers.get, serialization.serialize(scaled, version)))
        found.append((schedules.get, serialization.serialize(rate, version)))
        steps = schedules.PiecewiseConstantDecay([1, 5], [0.1, 0.2, 0.3])
        found.append((schedules.get, serialization.serialize(steps, version)))
    array = serialization.serialize(np.ones((V, D), np.float32))
    return [*found, (initializers.get, array), (Embedding.from_config, {"input_dim": V, "output_dim": D, "name": "x"})]


words = st.sampled_from(["Zeros", "Adam", "Embedding", "function", "__numpy__", "os>system", "", "float32", "L2", "x"])
leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | words | st.binary(max_size=2)
leaves |= st.sampled_from(
    [2**31, 2**63, 2**64, -1, 10**400, 1e308, float("nan"), 1j, (), object(), np.float32(2), Embedding]
)
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["class_name", "config", "name", "value", "dtype", "registered_name"]), inner)
    ),
    max_leaves=6,
)


def places(tree, at=()):
    """The ways to all values in dicts and lists."""
    yield at
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in inner:
        yield from places(value, (*at, key))


def mutated(draw, tree, values=trees):
    """A copy of nested dicts and lists with something else at a place or two."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 2))):
        ways = [way for way in places(tree) if way]
        if not ways:
            return tree
        *way, key = draw(st.sampled_from(ways))
        holder = functools.reduce(lambda value, at: value[at], way, tree)
        how = draw(st.sampled_from(["set", "set", "set", "remove", "add", "swap", "deep"]))
        if how == "set":
            holder[key] = draw(values)
        elif how == "remove":
            del holder[key]
        elif how == "add" and isinstance(holder, dict):
            holder[draw(st.sampled_from(["x", "path", "decay", "seed", "weights"]))] = draw(values)
        elif how == "swap":
            other = draw(st.sampled_from(ways))
            with contextlib.suppress(LookupError, TypeError):  # it is gone by now
                holder[key] = copy.deepcopy(functools.reduce(lambda value, at: value[at], other, tree))
        elif how == "deep":
            for _ in range(draw(st.sampled_from([3, 40, 300]))):
                holder[key] = [holder[key]]
    return tree


def configs(data):
    """Configs with wrong values: an object, which its own config makes again, or an error."""
    make, config = data.draw(st.sampled_from(known_configs()), label="of")
    wrong = mutated(data.draw, config)
    with contextlib.suppress(RecursionError):
        hypothesis.note(f"{make} of {wrong!r:.2000}")
    with bounded():
        made = outcome(lambda: make(wrong))
        if isinstance(made, Exception) or made is None or isinstance(made, (str, float)):
            return
        again = outcome(lambda: serialization.serialize(made))
        if isinstance(again, Exception):
            return
        if isinstance(made, Embedding) and made.input_dim * made.output_dim < 10_000:
            looked = outcome(lambda: made([[0] * (made.input_length or 1)]) if type(made) is Embedding else made([[0]]))
            assert isinstance(looked, (np.ndarray, *CLEAR)), looked
        if hasattr(made, "get_config"):
            outcome(lambda: repr(made))
            one = outcome(lambda: make(again) if make is not Embedding.from_config else make(again["config"]))
            if make is not EmbeddingBag.from_config and hasattr(one, "get_config"):
                assert repr(serialization.serialize(one)) == repr(again)


# ---- files -----------------------------------------------------------------------------------------------------------

HUGE = [2**31, 2**32 + 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 10**30, -1, 0]


def damaged(draw, octets):
    """The bytes of a file with a few of them changed, cut, put in, moved, or a number in it made large."""
    octets = bytearray(octets)
    for _ in range(draw(st.integers(1, 4))):
        if not octets:
            break
        # Half of the time near the begin or the end, where most files say what they are.
        edge = min(len(octets), 200)
        at = draw(st.integers(0, len(octets) - 1) | st.integers(0, edge - 1) | st.integers(-edge, -1)) % len(octets)
        how = draw(
            st.sampled_from(["flip", "set", "cut", "remove", "put", "copy", "number", "word", "digits", "append"])
        )
        if how == "flip":
            octets[at] ^= 1 << draw(st.integers(0, 7))
        elif how == "set":
            octets[at] = draw(st.sampled_from([0, 255, 127, 128, 32, 10, 45, 57]) | st.integers(0, 255))
        elif how == "cut":
            del octets[at:]
        elif how == "remove":
            del octets[at : at + draw(st.integers(1, 20))]
        elif how == "put":
            octets[at:at] = draw(st.binary(min_size=1, max_size=20))
        elif how == "copy":
            start = draw(st.integers(0, len(octets) - 1))
            octets[at:at] = octets[start : start + draw(st.integers(1, 60))]
        elif how in ("number", "word"):
            size, kind = (8, "<Q") if how == "number" else (4, "<I")
            octets[at : at + size] = struct.pack(kind, draw(st.sampled_from(HUGE)) % 2 ** (8 * size))
        elif how == "digits":
            digits = [i for i, octet in enumerate(octets) if 48 <= octet < 58]
            if digits:
                at = draw(st.sampled_from(digits))
                octets[at : at + 1] = str(draw(st.sampled_from(HUGE))).encode()
        else:
            octets += draw(st.binary(min_size=1, max_size=20))
    return bytes(octets)


def damaged_inside(draw, octets):
    """A zip file, whole, of which one member is damaged, compressed or called otherwise."""
    archive, changed = zipfile.ZipFile(io.BytesIO(octets)), io.BytesIO()
    names = archive.namelist()
    which = draw(st.sampled_from(names))
    with zipfile.ZipFile(changed, "w") as new, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names:
            content, how = archive.read(name), zipfile.ZIP_STORED
            if name == which:
                content = damaged(draw, content)
                how = draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
                name = draw(st.sampled_from([name, name, name, "x.npy", "archive/data/0", ""])) or name
            new.writestr(name, content, how)
    return changed.getvalue()


@functools.cache
def whole_files():
    """{name of a file: its bytes} of every format; small."""
    found, rng = {}, np.random.default_rng(5)
    layer = Embedding(V, D, weights=rng.standard_normal((V, D)).astype(np.float32), name="items")
    halves = Embedding(V, D, weights=rng.standard_normal((V, D)).astype(np.float32), name="halves", dtype="bfloat16")
    vocabulary = [f"w{i}" for i in range(V)]
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for name in ("a.npy", "b.npz", "c.safetensors", "d.pt", "e.txt", "f.bin"):
            formats.save(layer, folder / name, vocabulary=vocabulary if name[0] in "ef" else None)
        formats.save(halves, folder / "g.safetensors")
        formats.save(halves, folder / "h.pt")
        np.save(folder / "i.npy", np.asfortranarray(layer.embeddings.numpy().astype(">f8")))
        np.savez_compressed(folder / "j.npz", items=layer.embeddings.numpy(), count=np.arange(3))
        found = {file.name: file.read_bytes() for file in sorted(folder.iterdir())}
    found["glove.txt"] = found["e.txt"].partition(b"\n")[2]
    found["k.txt.gz"] = gzip.compress(found["e.txt"])
    found["l.kv"] = gensim_file(layer.embeddings.numpy(), vocabulary, 4)
    found["m.kv"] = gensim_file(layer.embeddings.numpy(), vocabulary, 5)
    return found


class KeyedVectors:
    """Stands for gensim's class where a pickle is made."""

    __module__ = "gensim.models.keyedvectors"

    def __init__(self, **state):
        self.__dict__.update(state)


def gensim_file(vectors, vocabulary, protocol):
    """The bytes of a .kv file."""
    module = type(sys)("gensim.models.keyedvectors")
    module.KeyedVectors = KeyedVectors
    names = ["gensim", "gensim.models", module.__name__]
    before = {name: sys.modules.get(name) for name in names}
    sys.modules.update(dict.fromkeys(names, module))
    try:
        places = {word: i for i, word in enumerate(vocabulary)}
        state = {"vector_size": vectors.shape[1], "index_to_key": vocabulary, "key_to_index": places}
        return pickle.dumps(KeyedVectors(**state, vectors=vectors), protocol)
    finally:
        for name, module in before.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module


def files(data):
    """Damaged files of others, in all that reads them."""
    read_files(data, whole_files())


def keras_files(data):
    """Damaged HDF5 files, and .keras files."""
    read_files(data, whole_keras_files())


@functools.cache
def whole_keras_files():
    """{name of a file: its bytes} of Keras's formats; small."""
    layer = Embedding(V, D, weights=np.ones((V, D), np.float32), name="items")
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for name in ("a.keras", "b.weights.h5", "c.h5"):
            formats.save(layer, folder / name)
        return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def read_files(data, files):
    """One of these files, damaged, and read in every way."""
    name = data.draw(st.sampled_from(sorted(files)), label="file")
    inside = files[name][:4] == b"PK\x03\x04" and data.draw(st.booleans())
    octets = (damaged_inside if inside else damaged)(data.draw, files[name])
    with tempfile.TemporaryDirectory() as folder, bounded():
        path = pathlib.Path(folder, name)
        path.write_bytes(octets)
        hypothesis.note(f"{name}: {octets!r}")
        loaded = outcome(lambda: formats.load(path))
        assert not isinstance(loaded, MemoryError), loaded
        if isinstance(loaded, Embedding):
            assert loaded(np.arange(loaded.input_dim)).shape == (loaded.input_dim, loaded.output_dim)
            assert loaded.embeddings.nbytes <= 1200 * len(octets)
        found = outcome(lambda: formats.find(path))
        if isinstance(found, list):
            outcome(lambda: [str(each) for each in found])
        table = pathlib.Path(folder, "table.npy")
        apart = outcome(lambda: formats.load(path, dtype=data.draw(st.sampled_from([None, "int8"])), table_path=table))
        if isinstance(apart, Exception):
            assert not table.exists()
        outcome(lambda: formats.load(path, name="items"))
        if path.suffix in (".txt", ".bin", ".kv", ".gz"):
            listed = outcome(lambda: formats.load_vocabulary(path))
            if isinstance(listed, list):
                assert all(isinstance(word, str) for word in listed)


@functools.cache
def whole_folders():
    """{kind: {name of a file: its bytes}}: saves of layers, checkpoints, states of optimizers."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        layer, optimizer = trained(folder / "state")
        layer.save(folder / "save")
        checkpoint = Checkpoint(layer, optimizer)
        checkpoint.save(folder / "checkpoint", extra={"epoch": 3, "rng": np.random.default_rng(1), "a": np.arange(3)})
        step(layer, optimizer)
        checkpoint.save(folder / "checkpoint", delta=True)
        optimizer.flush()
        layer.enable_lora(2)
        layer.save(folder / "lora")
        for kind in ("save", "lora", "checkpoint", "state"):
            these = sorted(file for file in (folder / kind).rglob("*") if file.is_file() and file.suffix != ".lock")
            found[kind] = {str(file.relative_to(folder / kind)): file.read_bytes() for file in these}
    return found


def trained(path=None):
    """A layer and its optimizer, whose state lives in `path`."""
    layer = Embedding(V, D, "zeros", name="items")
    optimizer = optimizers.Adam(0.1, untouched="catch_up", path=path)
    step(layer, optimizer)
    return layer, optimizer


def step(layer, optimizer):
    optimizer.apply([layer.gradient([1, 2, 1], np.ones((3, D), np.float32))], [layer.embeddings])


numbers_of_json = st.sampled_from([*HUGE, 1, 7, None, "", "x", 1.5, [], {}, True]) | trees


def folders(data):
    """Damaged directories of our own; half of the time their checksums are made to fit again."""
    kind = data.draw(st.sampled_from(sorted(whole_folders())), label="kind")
    whole = dict(whole_folders()[kind])
    name = data.draw(st.sampled_from(sorted(whole)), label="file")
    fits = False
    if name.endswith(".json") and data.draw(st.booleans()):
        tree = mutated(data.draw, json.loads(whole[name]), numbers_of_json)
        try:
            whole[name], fits = json.dumps(tree).encode(), data.draw(st.booleans())
        except (TypeError, ValueError, RecursionError):  # JSON has no such thing
            hypothesis.reject()
    else:
        whole[name] = damaged(data.draw, whole[name])
    if data.draw(st.integers(0, 19)) == 0:
        del whole[name]
    hypothesis.note(f"{name}: {whole.get(name)!r:.3000}")
    if fits and kind == "checkpoint":
        make_fit(whole, name)
    with tempfile.TemporaryDirectory() as folder, bounded():
        for file, octets in whole.items():
            path = pathlib.Path(folder, kind, file)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(octets)
        path = pathlib.Path(folder, kind)
        read_folder(data, path, kind)


def make_fit(whole, name):
    """The checksums of a checkpoint's lists, made again for what stands in them now."""
    if "checkpoint.json" not in whole:
        return
    listed = outcome(lambda: json.loads(whole["checkpoint.json"]), json.JSONDecodeError)
    if not isinstance(listed, dict):
        return
    for entry in listed.get("saves") if isinstance(listed.get("saves"), list) else []:
        if isinstance(entry, dict) and f"{entry.get('name')}/save.json" in whole and name.endswith("save.json"):
            entry["digest"] = zlib.crc32(whole[f"{entry['name']}/save.json"])
    listed.pop("crc32", None)
    whole["checkpoint.json"] = json.dumps(
        {**listed, "crc32": zlib.crc32(json.dumps(listed, sort_keys=True).encode())}
    ).encode()


def read_folder(data, path, kind):
    """A directory in every way that reads it."""
    if kind in ("save", "lora"):
        for mode in (None, "r", "r+", "c"):
            loaded = outcome(lambda mode=mode: fastembed.load(path, mode))
            if isinstance(loaded, Embedding) and loaded.input_dim < 10_000:
                looked = np.zeros((1, loaded.input_length or 1), int)
                outcome(lambda loaded=loaded, looked=looked: loaded(looked))
        outcome(lambda: fastembed.verify(path))
        return
    if kind == "state":
        layer = Embedding(V, D, "zeros", name="items")
        optimizer = outcome(lambda: optimizers.Adam(0.1, untouched="catch_up", path=path))
        if isinstance(optimizer, optimizers.Optimizer):
            done = outcome(lambda: step(layer, optimizer))
            if done is None:
                assert np.isfinite(optimizer.learning_rate)
                outcome(lambda: layer([1, 2]))
                outcome(optimizer.flush)
        return
    layer, optimizer = trained()
    outcome(lambda: fastembed.verify(path, False))
    outcome(lambda: Checkpoint.saves(path))
    checkpoint = Checkpoint(layer, optimizer)
    restored = outcome(lambda: checkpoint.restore(path, progress=False))
    if restored is None or isinstance(restored, dict):
        assert layer(np.arange(V)).shape == (V, D)
    outcome(lambda: step(layer, optimizer))  # goes on, whatever came of it
    outcome(lambda: checkpoint.save(path, delta=data.draw(st.booleans()), progress=False))
    outcome(lambda: Checkpoint.compact(path, progress=False))


# ---- programs --------------------------------------------------------------------------------------------------------

STEPS = {
    "sgd": (optimizers.SGD, {}, {}),
    "momentum": (optimizers.SGD, {"momentum": 0.75}, {"momentum": 0.75}),
    "adagrad": (optimizers.Adagrad, {"epsilon": 1e-3}, {"epsilon": 1e-3}),
    "adam": (optimizers.Adam, {"epsilon": 1e-2}, {"epsilon": 1e-2}),
    "rowwise_adagrad": (optimizers.RowwiseAdagrad, {"epsilon": 1e-2}, {"epsilon": 1e-2}),
    "rmsprop": (optimizers.RMSprop, {"epsilon": 1e-2}, {"epsilon": 1e-2}),
}
RATE, LONGEST = 0.125, 40
some_ids = st.lists(st.integers(0, 2**31), min_size=1, max_size=12)


class Programs(RuleBasedStateMachine):
    """Random programs of look-ups, steps, changes of the rows, saves and copies, beside the float64 oracle."""

    @initialize(name=st.sampled_from(sorted(STEPS)), v=st.integers(1, 20), d=st.integers(1, 9))
    def begin(self, name, v, d):
        make, ours, self.arguments = STEPS[name]
        initializer = initializers.RandomUniform(seed=7)
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.name, self.first = name, Embedding(LONGEST, d, initializer).embeddings.numpy().astype(float)
        self.layer = Embedding(v, d, initializer, name="words")
        self.layer.build()
        self.optimizer = make(RATE, **ours)
        self.optimizer.build([self.layer.embeddings])
        self.at = optimizers.Adagrad().initial_accumulator_value if name == "adagrad" else 0.0
        self.table, self.t, self.frozen = self.first[:v].copy(), 0, set()
        self.state = ref.initial_state(name, (v, d), self.at)
        self.words, self.next_word = list(range(v)), v

    def teardown(self):
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)

    def close(self, actual, wanted):
        np.testing.assert_allclose(actual, wanted, rtol=2e-3, atol=2e-3)

    def rows(self, ids):
        return np.array(ids) % len(self.table)

    @rule(ids=some_ids)
    def look_up(self, ids):
        ids = self.rows(ids)
        self.close(self.layer(ids.astype(np.int32)), self.table[ids])
        self.close(self.layer.embeddings[ids], self.table[ids])

    @rule(ids=some_ids, combiner=st.sampled_from(list(ops.COMBINERS)), cut=st.integers(0, 12))
    def pool(self, ids, combiner, cut):
        ids, splits = self.rows(ids), np.array([0, min(cut, len(ids)), len(ids)])
        table = self.layer.embeddings.numpy()
        self.close(ops.pool(table, ids, splits, combiner=combiner), ref.pool(self.table, ids, splits, None, combiner))

    def step_of(self, gradient, dense, touched):
        self.optimizer.apply([gradient], [self.layer.embeddings])
        self.t += 1
        touched = sorted(set(touched) - self.frozen)
        ref.step(self.name, self.table, self.state, dense, touched, self.t, RATE, **self.arguments)
        self.close(self.layer.embeddings.numpy(), self.table)

    @rule(ids=some_ids, seed=seeds)
    def step(self, ids, seed):
        ids = self.rows(ids)
        upstream = np.random.default_rng(seed).uniform(-2, 2, (len(ids), self.table.shape[1])).astype(np.float32)
        dense, touched = ref.gather_gradient(self.table.shape, ids, upstream)
        self.step_of(self.layer.gradient(ids, upstream), dense, touched)

    @rule(seed=seeds)
    def dense_step(self, seed):
        dense = np.random.default_rng(seed).uniform(-2, 2, self.table.shape).astype(np.float32)
        self.step_of(dense, dense.astype(float), range(len(dense)))

    @rule(wrong=st.sampled_from([-1, LONGEST, 2**40]), ids=some_ids)
    def wrong_step(self, wrong, ids):
        ids = [*self.rows(ids), wrong]
        upstream = np.ones((len(ids), self.table.shape[1]), np.float32)
        gradient = IndexedSlices(upstream, ids, self.table.shape)
        before = self.layer.embeddings.numpy().tobytes()
        error = outcome(lambda: self.optimizer.apply([gradient], [self.layer.embeddings]))
        assert isinstance(error, IndexError), error
        assert self.layer.embeddings.numpy().tobytes() == before

    def take_rows(self, from_v):
        """The oracle's rows become these of the old ones, -1: new ones."""
        old, old_state, (v, d) = self.table, self.state, (len(from_v), self.table.shape[1])
        self.table, self.state = self.first[:v].copy(), ref.initial_state(self.name, (v, d), self.at)
        kept = np.flatnonzero(np.array(from_v) >= 0)
        self.table[kept] = old[np.array(from_v)[kept]]
        for part, values in self.state.items():
            values[kept] = old_state[part][np.array(from_v)[kept]]
        self.frozen = {i for i, place in enumerate(from_v) if place in self.frozen}

    @rule(v=st.integers(1, LONGEST))
    def resize(self, v):
        self.layer.resize(v)
        self.take_rows([i if i < len(self.table) else -1 for i in range(v)])
        self.words = [*self.words[:v], *range(self.next_word, self.next_word + v - len(self.words[:v]))]
        self.next_word += LONGEST
        self.close(self.layer.embeddings.numpy(), self.table)

    @rule(data=st.data())
    def remap(self, data):
        words = data.draw(
            st.lists(st.sampled_from([*self.words, *range(-9, 0)]), min_size=1, max_size=LONGEST, unique=True)
        )
        self.layer.remap(self.words, words)
        self.take_rows([self.words.index(word) if word in self.words else -1 for word in words])
        self.words = [word if word >= 0 else self.next_word - word for word in words]
        self.next_word += LONGEST
        self.close(self.layer.embeddings.numpy(), self.table)

    @rule(ids=some_ids)
    def freeze(self, ids):
        self.layer.embeddings.freeze(self.rows(ids))
        self.frozen |= set(self.rows(ids).tolist())

    @precondition(lambda self: getattr(self, "frozen", None))
    @rule()
    def unfreeze(self):
        self.layer.embeddings.unfreeze(sorted(self.frozen))
        self.frozen = set()

    @rule(delta=st.booleans())
    def checkpoint(self, delta):
        saved = Checkpoint(self.layer, self.optimizer)
        saved.save(self.folder / "training", delta=delta and (self.folder / "training").exists())
        make, ours, _ = STEPS[self.name]
        layer = Embedding(len(self.table), self.table.shape[1], initializers.RandomUniform(seed=7), name="words")
        optimizer = make(RATE, **ours)
        Checkpoint(layer, optimizer).restore(self.folder / "training")
        assert layer.embeddings.numpy().tobytes() == self.layer.embeddings.numpy().tobytes()
        self.layer, self.optimizer = layer, optimizer

    @rule()
    def copy_both(self):
        self.layer, self.optimizer = copy.deepcopy((self.layer, self.optimizer))

    @rule()
    def pickle_both(self):
        self.layer, self.optimizer = pickle.loads(pickle.dumps((self.layer, self.optimizer)))

    @rule(suffix=st.sampled_from([".npy", ".safetensors", ".pt", "/"]))
    def file(self, suffix):
        path = self.folder / f"layer{suffix}"
        if suffix == "/":
            self.layer.save(path)
            loaded = fastembed.load(path)
        else:
            formats.save(self.layer, path)
            loaded = formats.load(path)
        assert loaded.embeddings.numpy().tobytes() == self.layer.embeddings.numpy().tobytes()

    @rule(array=st.none() | st.floats(-2, 2, width=16))
    def assign(self, array):
        if array is not None:
            self.table[:] = array
            self.layer.embeddings.assign(np.full(self.table.shape, array, np.float32))

    @rule(number=st.integers(1, 3))
    def threads(self, number):
        fastembed.set_num_threads(number)


_plan, _plans = optimizers.history.plan, {}


def _planned(optimizer):
    """A tenth of a second, once."""
    if repr(optimizer) not in _plans:
        _plans[repr(optimizer)] = _plan(optimizer)
    return _plans[repr(optimizer)]


# ---- running ---------------------------------------------------------------------------------------------------------

TARGETS = {
    "ids": ids,
    "bags": bags,
    "ragged": ragged,
    "configs": configs,
    "files": files,
    "folders": folders,
    "keras_files": keras_files,
    "programs": Programs,
}


def run(target, seed, examples):
    """Runs a target with the cases of a seed; raises what it finds, after it was made small."""
    how = hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        stateful_step_count=25,
        suppress_health_check=list(hypothesis.HealthCheck),
        print_blob=False,
    )
    with (
        warnings.catch_warnings(),
        mock.patch.object(os, "fsync", lambda handle: None),
        mock.patch.object(optimizers.history, "plan", _planned),
    ):
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "overflow encountered in cast")  # of numbers that a dtype has not
        warnings.filterwarnings("ignore", ".* takes norms over all rows of the table")  # our own word on a config
        if target != "programs":
            hypothesis.seed(seed)(how(hypothesis.given(st.data())(TARGETS[target])))()
            return
        threads = fastembed.get_num_threads()
        try:
            run_state_machine_as_test(hypothesis.seed(seed)(type("Seeded", (Programs,), {})), settings=how)
        finally:
            fastembed.set_num_threads(threads)


def run_apart(target, seed, examples, seconds):
    """The same in a process of its own; returns what went wrong, or None."""
    command = [sys.executable, __file__, "--target", target, "--seed", str(seed), "--examples", str(examples)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return f"hung for {seconds} seconds"
    return None if done.returncode == 0 else f"exit code {done.returncode}\n{done.stdout[-6000:]}{done.stderr[-6000:]}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--target", choices=TARGETS, action="append")
    parser.add_argument("--examples", type=int, default=300, help="of a seed")
    parser.add_argument("--seed", type=int, help="one seed of one target, here")
    args = parser.parse_args()
    if args.seed is not None:
        (target,) = args.target
        run(target, args.seed, args.examples)
        return 0
    end, failures, seed, counts = time.monotonic() + 60 * args.minutes, 0, time.time_ns() % 10**9, {}
    while time.monotonic() < end:
        for target in args.target or TARGETS:
            wrong = run_apart(target, seed, args.examples, 900)
            counts[target] = counts.get(target, 0) + args.examples
            if wrong is not None:
                failures += 1
                print(f"{target}: python tests/fuzz.py --target {target} --seed {seed} --examples {args.examples}")
                print(wrong, flush=True)
        seed += 1
    print(f"{failures} failures in {counts} examples")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
