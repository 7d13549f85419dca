"""Operations that are done again and again: no memory, object or open file may be left of any.

    python tests/leaks.py --calls 1000000

May import: fastembed, NumPy. Do not break: what is counted is what the C library has given out (`mallinfo2`), and
Python's blocks, not the pages of the process: so 16 bytes a call are seen.
"""

import argparse
import copy
import ctypes
import gc
import os
import pathlib
import pickle
import sys
import tempfile
import threading
import time

import numpy as np

import fastembed
from fastembed import Checkpoint, Embedding, EmbeddingBag, IndexedSlices, Ragged, Table, formats, ops, optimizers

V, D = 50, 8
IDS = np.array([3, 1, 4, 1, 5])
SPLITS = np.array([0, 2, 2, 5])
UPSTREAM = np.ones((5, D), np.float32)
MANY = np.arange(6000) % 7  # sorted by several threads, and summed in chunks


class _Mallinfo(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    ]


def used():
    """(bytes that glibc has given out, 0 where there is another C library; Python's blocks; open files)."""
    gc.collect()
    libc, taken = ctypes.CDLL(None), 0
    if hasattr(libc, "mallinfo2"):
        libc.mallinfo2.restype = _Mallinfo
        info = libc.mallinfo2()
        taken = info.uordblks + info.hblkhd
    return taken, sys.getallocatedblocks(), len(os.listdir("/dev/fd"))


def refused(function, *errors):
    """The function, which raises one of these errors."""

    def run():
        try:
            function()
        except errors:
            return
        raise AssertionError("no error")

    return run


def operations(folder):
    """{name: (how many calls take as long as one quick one, an operation)}."""
    layer, bag, ragged = Embedding(V, D), EmbeddingBag(V, D, "mean"), Ragged(IDS, SPLITS)
    table, coded = np.ones((V, D), np.float32), fastembed.Embedding(V, D, dtype="bfloat16")
    dense = np.ones((3, D), np.float32)
    out, weights = np.empty((5, D), np.float32), np.ones(5, np.float32)
    tables = [layer.embeddings, bag.embeddings, coded.embeddings, Table((V, D), "float64")]
    adam, sgd = optimizers.Adam(), optimizers.SGD(0.1)  # "catch_up" keeps 64 bytes of each of a million steps
    lamb, waits = optimizers.Lamb(), optimizers.Adam(gradient_accumulation_steps=2, clipnorm=1.0)
    gradients = [IndexedSlices(UPSTREAM, IDS, (V, D)) for _ in tables]
    hot = IndexedSlices(np.ones((len(MANY), D), np.float32), MANY, (V, D))
    wrong = IndexedSlices(UPSTREAM, [*IDS[:4], V], (V, D))
    formats.save(layer, folder / "a.npy")
    formats.save(layer, folder / "a.pt")
    layer.save(folder / "save")
    checkpoint = Checkpoint(coded, optimizers.Adam())
    checkpoint.save(folder / "training")
    (folder / "cut.npy").write_bytes((folder / "a.npy").read_bytes()[:-1])

    def in_a_thread():
        thread = threading.Thread(target=layer, args=(IDS,))
        thread.start()
        thread.join()

    def forked():
        child = os.fork()
        if child == 0:
            layer(IDS)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0

    def resized():
        layer.resize(V + 1)
        layer.resize(V)

    def quantized():
        made = Embedding(V, D, weights=table)
        made.quantize("int8")
        made(IDS)

    return {
        "look-up": (1, lambda: layer(IDS)),
        "look-up of a list": (2, lambda: layer([1, 2, 3])),
        "look-up, out": (1, lambda: layer(IDS, out=out)),
        "look-up of bfloat16": (1, lambda: coded(IDS)),
        "look-up of many": (40, lambda: layer(MANY)),
        "gather": (1, lambda: ops.gather(table, IDS)),
        "rows of a table": (1, lambda: layer.embeddings[IDS]),
        "pooled": (2, lambda: bag(ragged)),
        "pooled, weights": (2, lambda: bag(ragged, weights)),
        "pool, max": (2, lambda: ops.pool(table, IDS, SPLITS, combiner="max")),
        "gradient": (2, lambda: layer.gradient(IDS, UPSTREAM)),
        "gradient of bags": (3, lambda: bag.gradient(ragged, UPSTREAM[:3], weights)),
        "gradient of weights": (5, lambda: bag.weights_gradient(ragged, UPSTREAM[:3], weights)),
        "coalesce": (4, lambda: gradients[0].coalesce()),
        "sum of slices": (6, lambda: (gradients[0] + gradients[1]).to_dense()),
        "step": (10, lambda: sgd.apply([gradients[0]], [tables[0]])),
        "step of all dtypes": (20, lambda: lamb.apply(gradients, tables)),
        "step of Adam": (10, lambda: adam.apply([gradients[0]], [tables[0]])),
        "step of many": (100, lambda: sgd.apply([hot], [tables[1]])),
        "steps that wait": (30, lambda: waits.apply([gradients[2], UPSTREAM[:3]], [tables[2], dense])),
        "dense step": (10, lambda: sgd.apply([table], [tables[0]])),
        "wrong id": (3, refused(lambda: layer([1, V]), IndexError)),
        "wrong id, out": (3, refused(lambda: layer([1, 2, 3, 4, -1], out=out), IndexError)),
        "wrong ids in bags": (4, refused(lambda: bag(Ragged([1, V], [0, 2])), IndexError)),
        "wrong dtype": (3, refused(lambda: layer(["a"]), TypeError)),
        "fractions": (3, refused(lambda: layer([0.5]), ValueError)),
        "wrong splits": (3, refused(lambda: Ragged(IDS, [0, 9]), ValueError)),
        "wrong weights": (3, refused(lambda: bag(ragged, weights[:2]), ValueError)),
        "wrong upstream": (3, refused(lambda: layer.gradient(IDS, UPSTREAM[:2]), ValueError)),
        "wrong step": (10, refused(lambda: sgd.apply([wrong], [tables[0]]), IndexError)),
        "wrong config": (20, refused(lambda: Embedding.from_config({"x": 1}), TypeError)),
        "wrong file": (100, refused(lambda: formats.load(folder / "cut.npy"), ValueError)),
        "no file": (50, refused(lambda: fastembed.load(folder / "none"), FileNotFoundError)),
        "Ragged": (2, lambda: Ragged(IDS, SPLITS)),
        "Ragged of lists": (5, lambda: Ragged.from_lists([[1, 2], [], [3]])),
        "rows of a Ragged": (3, lambda: list(ragged)),
        "parts of a Ragged": (8, lambda: (ragged[::-1], ragged[1], ragged.to_padded())),
        "Table": (10, lambda: Table((V, D))),
        "layer": (40, lambda: Embedding(V, D)(IDS)),
        "DLPack": (2, lambda: np.from_dlpack(layer.embeddings)),
        "array": (1, lambda: np.asarray(layer.embeddings)),
        "config": (50, lambda: Embedding.from_config(layer.get_config())),
        "pickle": (50, lambda: pickle.loads(pickle.dumps((layer, sgd)))),
        "deepcopy": (100, lambda: copy.deepcopy((bag, lamb))),
        "resize": (100, resized),
        "quantize": (200, quantized),
        "freeze": (10, lambda: (tables[1].freeze([1]), tables[1].unfreeze([1]))),
        "thread": (30, in_a_thread),
        "fork": (1000, forked),
        "file of NumPy": (200, lambda: formats.load(folder / "a.npy")),
        "file of torch": (400, lambda: formats.load(folder / "a.pt")),
        "files": (300, lambda: [fastembed.load(folder / "save", mode) for mode in (None, "r", "r+")]),
        "save": (1000, lambda: layer.save(folder / "save")),
        "checkpoint": (2000, lambda: checkpoint.restore(folder / "training")),
    }


def growth(operation, calls):
    """(bytes, blocks, open files) more after so many calls than before."""
    for _ in range(max(5, calls // 10)):
        operation()
    before = used()
    for _ in range(calls):
        operation()
    return tuple(now - then for now, then in zip(used(), before, strict=True))


def leaks(found, calls):
    """Whether what growth() found is a leak: it grows with the calls."""
    taken, blocks, handles = found
    return taken > max(8 * calls, 1 << 13) or blocks > max(calls // 10, 100) or handles > 0


def main(calls, quiet=False):
    """Does all of them; returns what leaks."""
    wrong = []
    gc.collect()
    gc.freeze()  # what is there now is not looked at again and again
    with tempfile.TemporaryDirectory() as folder:
        for name, (cost, operation) in operations(pathlib.Path(folder)).items():
            start, these = time.perf_counter(), max(calls // cost, 20)
            found = growth(operation, these)
            if leaks(found, these):  # caches fill now and then; a leak does so each time
                these *= 3
                found = growth(operation, these)
            if leaks(found, these):
                wrong.append(f"{name}: (bytes, blocks, files) {found} after {these:,} calls")
            if not quiet:
                print(f"{name}: {these:,} calls, {time.perf_counter() - start:.1f} s, {found}", flush=True)
    gc.unfreeze()
    return wrong


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1_000_000, help="of what is quick; fewer of others")
    found = main(parser.parse_args().calls)
    print(*found, sep="\n")
    sys.exit(bool(found))
