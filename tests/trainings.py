"""A training for the tests of checkpoints, and all that it is made of; hands that damage a checkpoint.

May import: fastembed, NumPy. Do not break: `whole` compares every byte that the library keeps, what users cannot see
too; `sign` makes a damaged file look whole, so that what stands behind the checksums is tested as well.
"""

import io
import json
import os
import zlib

import numpy as np

import fastembed
from fastembed import Checkpoint, EmbeddingBag, IndexedSlices, Table, ops

V, D = 300, 6
HEAD = 4096  # bytes of a file before its data


class Model:
    """An embedding of bags, a table, a matrix and a vector, all trained by one optimizer."""

    def __init__(self, optimizer, storage="float32", v=V, **arguments):
        self.optimizer = optimizer
        self.bag = EmbeddingBag(v, D, "mean", embeddings_initializer=initial(1), dtype=storage, **arguments)
        self.table = Table((40, 3), storage, name="own")
        self.dense, self.bias = ops.zeros((D, 2), storage), np.zeros(D, np.float32)
        ops.encode(self.dense, np.full((D, 2), 0.5, np.float32))
        self.layers = {"bag": self.bag, "table": self.table, "dense": self.dense, "bias": self.bias}

    @property
    def checkpoint(self):
        return Checkpoint(self.layers, self.optimizer)

    def train(self, *steps):
        for number in steps:
            rng = np.random.default_rng(number)
            ids, more = rng.zipf(1.5, (8, 3)) % self.bag.input_dim, rng.integers(0, 40, 5)
            pairs = [
                (self.bag.gradient(ids, 0.1 * self.bag(ids)), self.bag.embeddings),
                (IndexedSlices(rng.standard_normal((5, 3)), more, (40, 3)), self.table),
                (rng.standard_normal((D, 2)), self.dense),
            ]
            # A sparse gradient of an array, now and then; the vector comes late, and not in every call.
            if number % 3 == 0:
                pairs[2] = (IndexedSlices(rng.standard_normal((2, 2)), [1, 4], (D, 2)), self.dense)
            if number % 4 == 2:
                pairs.append((rng.standard_normal(D), self.bias))
            self.optimizer.apply_gradients(pairs)
        return self


def initial(seed):
    return fastembed.initializers.RandomUniform(-1, 1, seed=seed)


def whole(model):
    """Everything that a training is made of, as bytes and numbers."""
    counters, known = model.optimizer.snapshot()
    memory, names = {"counters": counters}, {}
    for name, variable in model.checkpoint._variables().items():
        names[id(variable)] = name
        memory[name] = (variable.memory if isinstance(variable, Table) else variable).tobytes()
        scales = getattr(variable, "row_scales", None)
        memory[name, "scales"] = None if scales is None else scales.tobytes()
        debt = getattr(variable, "debt", None)
        memory[name, "owes"] = debt is not None and debt in known
    for kept in known:
        name = names[id(kept.variable)]
        memory[name, "numbers"], arrays = kept.snapshot()
        for what, array in {**arrays, **kept.memory()}.items():
            memory[name, what] = (array.dtype, array.shape, array.tobytes())
    return memory


def seen(model):
    """What users see, with all rows up to date."""
    arrays = [variable.numpy() if isinstance(variable, Table) else variable for variable in weights(model)]
    known = {id(kept.variable) for kept in model.optimizer.snapshot()[1]}
    for variable in weights(model):
        arrays += model.optimizer.state(variable).values() if id(variable) in known else []
    return [array.tobytes() for array in arrays]


def weights(model):
    return [*model.bag.weights, model.table, model.dense, model.bias]


def addresses(model):
    of = [variable.memory if isinstance(variable, Table) else variable for variable in weights(model)]
    return {array.ctypes.data for array in [*of, *model.optimizer.variables]}


# ---- damage ----------------------------------------------------------------------------------------------------------


def last_save(path):
    """The folder of the last save."""
    return path / json.loads((path / "checkpoint.json").read_text())["saves"][-1]["name"]


def arrays_of(save):
    """The names of the arrays of a save."""
    return sorted(name for name in os.listdir(save) if name.endswith(".npy"))


def changed(about, *keys, to):
    """The JSON with another value at the end of these keys."""
    about = json.loads(about)
    inner = about
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = to
    return json.dumps(about)


def write(file, damaged):
    """Bytes or text into a file."""
    file.write_bytes(damaged if isinstance(damaged, bytes) else damaged.encode())


def sign(path):
    """All checksums of JSON files fit again."""
    about = json.loads((path / "checkpoint.json").read_text())
    about.pop("crc32", None)
    for entry in about["saves"]:
        entry["digest"] = zlib.crc32((path / entry["name"] / "save.json").read_bytes())
    about["crc32"] = zlib.crc32(json.dumps(about, sort_keys=True).encode())
    (path / "checkpoint.json").write_text(json.dumps(about))


def rewrite(path, name, array):
    """Other numbers in an array of the last save, of one chunk; the checksums fit."""
    save = last_save(path)
    octets = (save / name).read_bytes()[:HEAD] + array.tobytes()
    (save / name).write_bytes(octets)
    sums = " ".join(f"{zlib.crc32(part):08x}" for part in (octets[:HEAD], octets[HEAD:]))
    file = save / "save.json"
    file.write_text(changed(file.read_text(), "files", name.removesuffix(".npy"), "crc32", to=sums))
    sign(path)


def npy(array):
    """The bytes of a .npy file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()
