"""Shared by the tests of files: layers of every kind, and files that are cut or changed.

May import: NumPy, pytest, fastembed. Do not break: `damaged` tries every position of a small file.
"""

import numpy as np
import pytest

from fastembed import Embedding, formats

V, D = 23, 5
LAYERS = ["float32", "float64", "float16", "bfloat16", "int8", "int4", "int2", "lora", "in_file"]


def layer_of(kind, folder=None):
    """A layer called items: of a dtype, or with LoRA, or in a file of a folder."""
    path = folder / "rows.npy" if kind == "in_file" else None
    plain = kind in ("float32", "float64", "float16", "bfloat16")
    layer = Embedding(V, D, "normal", dtype=kind if plain else "float32", name="items", path=path)
    layer.build()
    if kind == "lora":
        layer.enable_lora(2, b_initializer="ones")
    elif kind in ("int8", "int4", "int2"):
        layer.quantize(kind)
    return layer


def numbers(layer):
    """What look-ups of all rows give."""
    return layer(np.arange(layer.input_dim))


def refuses(path, message, **how):
    """Reading the file in any way raises a ValueError, that has `message` in it where it is loaded."""
    with pytest.raises(ValueError, match=message):
        formats.load(path, **how)


def damaged(path, checked, words=False, needless=0):
    """A file that is cut anywhere (but in `needless` bytes at its end) is refused; one with another byte raises
    ValueError, or gives rows; where the file has checksums (`checked`), those of the whole one."""
    good, wrong = path.read_bytes(), path.with_name("wrong" + path.suffix)
    expected = formats.load(path).embeddings.numpy()
    for cut in range(len(good) - needless):
        wrong.write_bytes(good[:cut])
        with pytest.raises(ValueError):
            formats.load(wrong)
    for at in range(len(good)):
        for value in {good[at] ^ 1, good[at] ^ 0x80, 0, 255} - {good[at]}:
            wrong.write_bytes(good[:at] + bytes([value]) + good[at + 1 :])
            try:
                found = formats.load(wrong).embeddings.numpy()
                if words:
                    formats.load_vocabulary(wrong)
            except ValueError:
                continue
            if checked:
                assert found.tobytes() == expected.tobytes(), f"byte {at} is {value}"
