"""The tables of Keras's int8 and int4 layers, which lie in files as codes, scales and perhaps zeros.

May import: hdf5, dtypes, ops. Do not break: a look-up returns what Keras's does, but for the last bits of float32.

An int8 layer has codes (v, d) and a scale (v,): an element is code / scale. An int4 layer has codes (v, (d + 1) / 2)
that are packed as ours, and either such a scale, or a scale and a zero for each group of columns, both (v, g), and the
group of each column (d,): an element is (code - zero) * scale.
Source: keras/src/layers/core/embedding.py (Keras 3.15), `_int8_call` and `_int4_call`.
"""

import numpy as np

from fastembed import dtypes, ops
from fastembed.formats import hdf5


class Codes:
    """The datasets of a quantised table, whose codes are at `place`. rows, dim: its shape; groups: scales of a row."""

    def __init__(self, file, place, path, layer=None):
        folder, _, name = place.rpartition("/")
        keras3 = name.isdecimal()
        names = [str(int(name) + i) for i in (1, 2, 3)] if keras3 else ["embeddings_scale", "embeddings_zero", "g_idx"]
        scale, zero, group = (f"{folder}/{each}" for each in names)
        self._about = f"Received: path={path!r}: {place!r}"
        if scale not in file or (zero in file) != (group in file):
            raise ValueError(f"`path` must hold the scales of a quantised table beside it. {self._about} has none")
        self._codes, _ = hdf5.dataset(file, place, path, ["int8"])
        self.rows, columns = self._codes.shape
        self._zero = self._group = None
        shape, dim, right = (self.rows,), columns, True
        if zero in file:
            self._zero, _ = hdf5.dataset(file, zero, path, ["int8"])
            group, _ = hdf5.dataset(file, group, path, ["float32"])
            shape, dim = self._zero.shape, group.size
            right = len(shape) == 2 and shape[0] == self.rows and shape[1] <= dim and group.shape == (dim,)
        self._scale, _ = hdf5.dataset(file, scale, path, dtypes.PLAIN, shape)
        # Weights alone do not say how wide codes without zeros are: those of int8 are told by their sizes; see `read`.
        self._told = layer is not None or self._zero is not None
        self.mode = layer.dtype if layer is not None else "int8" if self._zero is None else "int4"
        self.groups = shape[1] if len(shape) == 2 else 1
        self.dim = dim if layer is None else layer.output_dim
        right &= columns == (self.dim if self.mode == "int8" else (self.dim + 1) // 2)
        right &= self.mode in ("int8", "int4") and (layer is None or layer.input_dim == self.rows)
        right &= self._zero is None or (self.mode == "int4" and dim == self.dim)
        if right and self._zero is not None:
            self._group = group[...]
            right = ((self._group >= 0) & (self._group < self.groups) & (self._group % 1 == 0)).all()
        if not right:
            raise ValueError(
                f"`path` must hold the parts of one {self.mode} table, as its config says. {self._about} is of shape "
                f"{self._codes.shape}"
            )

    def read(self, table, compute):
        """Fills a table of codes, or where rows have several scales a plain one, some rows at a time.

        compute: the dtype that Keras computes with, and rounds scales to.
        """
        odd = 0
        for part in hdf5.blocks(self._codes, 16 * self.dim):  # bytes that an element takes meanwhile
            with np.errstate(all="ignore"):
                odd += self._read(table, part, compute)
        if 2 * odd > self.rows:
            raise ValueError(
                "`path` must hold a config, as .keras files do, for codes of which nothing else says whether they are "
                f"int8 or int4. {self._about} is of shape {self._codes.shape}"
            )

    def _read(self, table, part, compute):
        """Some rows; of how many the codes are not as large as Keras makes those of int8."""
        codes, scale = self._codes[part], hdf5.floats(self._scale, part).astype(compute).astype(np.float32)
        scale = 1 / scale if self._zero is None else scale
        if not np.isfinite(scale).all():
            raise ValueError(f"`path` must hold finite scales. {self._about} has others")
        zero = np.float32(0) if self._zero is None else self._zero[part].astype(np.float32)
        if table.storage in dtypes.QUANTISED:
            memory = table.memory[part]
            memory[self.mode] = codes.view(memory.dtype[self.mode].base)
            memory["scale"], memory["offset"] = scale.reshape(-1), (0 - zero * scale).reshape(-1)
        else:
            group = self._group.astype(np.intp)
            ops.encode(table.rows, (self._unpacked(codes) - zero[:, group]) * scale[:, group], part.start)
        most = 127 if self._told else np.abs(codes.astype(np.int16)).max(1)
        return np.count_nonzero((most != 0) & (most != 127))

    def _unpacked(self, packed):
        """The codes of int4 as int8, of which the first is in the lower bits of a byte."""
        both = np.stack([packed << 4, packed], -1) >> 4
        return both.reshape(len(packed), -1)[:, : self.dim]
