"""What a table and its training will take, before anything is made.

May import: dtypes, memory, ops, optimizers, table. Do not break: the numbers are those of the arrays that are made; a
test makes them and compares.
"""

from typing import NamedTuple

from fastembed import dtypes, memory, ops, optimizers
from fastembed.table import check_size


class Estimate(NamedTuple):
    """What `estimate` found; `print` shows it as a table.

    Args:
        input_dim, output_dim, dtype, optimizer: what was asked for; the optimizer's class, or None.
        table: bytes of the rows.
        state: bytes of what the optimizer keeps of all rows.
        available: bytes that are free now.

    Example:
        >>> fastembed.estimate(1_000_000, 64, optimizer="adam").total
        768000000
    """

    input_dim: int
    output_dim: int
    dtype: str
    optimizer: str | None
    table: int
    state: int
    available: int

    @property
    def total(self):
        """Bytes of table and state. A training step needs some 50 MB more, whatever the size of the table."""
        return self.table + self.state

    @property
    def fits(self):
        """Whether the memory that is free now is enough."""
        return self.total <= self.available

    def __str__(self):
        lines = [
            f"table      {memory.readable(self.table):>10}   {self.input_dim:,} x {self.output_dim:,} {self.dtype}",
            f"state      {memory.readable(self.state):>10}   {self.optimizer or 'no optimizer'}",
            f"total      {memory.readable(self.total):>10}   {'fits' if self.fits else 'does not fit'}",
            f"available  {memory.readable(self.available):>10}",
        ]
        if not self.fits:
            lines.append("A table can live in a file (path=), be made as it is used (lazy=True), or be bfloat16.")
        return "\n".join(lines)


def estimate(input_dim, output_dim, dtype="float32", optimizer=None):
    """The memory of a table and of the optimizer that trains it, without making either.

    With `path=` it is disk space, and with `lazy=True` what rows take that are used.

    Args:
        input_dim, output_dim: positive ints, the shape of the table.
        dtype: a storage dtype's name.
        optimizer: an Optimizer, or what `fastembed.optimizers.get` takes; None for look-ups alone.

    Returns:
        Estimate: `table`, `state`, `total` and `available` in bytes, `fits`; `print` shows it.

    Raises:
        ValueError, TypeError: sizes, a dtype or an optimizer that are none; a dtype that does not train.

    Example:
        >>> adagrad = fastembed.optimizers.Adagrad(state_dtype="bfloat16")
        >>> needs = fastembed.estimate(100_000_000, 64, "bfloat16", adagrad)
        >>> needs.table, needs.state
        (12800000000, 12800000000)
    """
    rows, dim = check_size(input_dim, "input_dim"), check_size(output_dim, "output_dim")
    storage = dtypes.storage(dtype)
    optimizer = optimizers.get(optimizer) if optimizer is not None else None
    if optimizer is not None and storage in dtypes.QUANTISED:
        raise TypeError(f"`dtype` must be one that trains, one of {list(dtypes.PLAIN)}. Received: dtype={dtype!r}")
    state = 0 if optimizer is None else rows * optimizer.bytes_of_row(storage, dim)
    name = None if optimizer is None else type(optimizer).__name__
    return Estimate(rows, dim, storage, name, rows * ops.row_bytes(storage, dim), state, memory.available())
