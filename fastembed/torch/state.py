"""The state of our optimizers as torch saves it: dicts of numbers and tensors.

May import: torch.arrays, checkpoint.trained. Do not break: everything is checked before anything is changed; tensors
share the memory of the state, as those in torch's own state dicts do.
"""

import copy

import numpy as np

from fastembed.checkpoint import trained
from fastembed.torch.arrays import memory_of, tensor_of


def state_of(optimizer, tables):
    """The state of an optimizer, of its variables in the order of `tables`.

    Returns:
        {"optimizer": class and settings, "counters": numbers, "numbers": {place: numbers}, "state": {place: {name:
        tensor}}}, all of which `torch.load(..., weights_only=True)` reads.
    """
    optimizer.catch_up()  # the tables are saved elsewhere, and up to date
    with optimizer.held(tables):
        counters, known = optimizer.snapshot()
        known = {id(kept.variable): kept for kept in known}
        numbers, tensors = {}, {}
        for place, table in enumerate(tables):
            kept = known.get(id(table))
            if kept is not None:
                kept.make(None)
            of_table, arrays = trained.snapshot(table, kept)
            del arrays["weights"]
            if kept is not None:
                numbers[place] = copy.deepcopy(of_table)
            tensors[place] = {name: tensor_of(array) for name, array in arrays.items()}
    return {"optimizer": optimizer.described(), "counters": counters, "numbers": numbers, "state": tensors}


def restore(optimizer, tables, saved):
    """Brings an optimizer to what state_of() gave."""
    ours = optimizer.described()
    if saved["optimizer"] != ours:
        raise ValueError(f"the state must be that of {ours}. Received: {saved['optimizer']}")
    tensors = {int(place): arrays for place, arrays in saved["state"].items()}
    numbers = {int(place): of_table for place, of_table in saved["numbers"].items()}
    if sorted(tensors) != [*range(len(tables))]:
        raise ValueError(f"the state must be that of {len(tables)} tables. Received: {sorted(tensors)}")
    with optimizer.held(tables):
        counters, known = optimizer.snapshot()
        known = {id(kept.variable): kept for kept in known}
        if not trained.same_form(saved["counters"], counters):
            raise ValueError(f"the counters must be those of {optimizer!r}. Received: {saved['counters']}")
        plans = [_plan(optimizer, table, numbers.get(place), tensors[place]) for place, table in enumerate(tables)]
        for table, (kept, given, scales) in zip(tables, plans, strict=True):
            scales_v = trained.prepare(table, known.get(id(table)), scales is not None)
            if scales_v is not None:
                np.copyto(scales_v, scales)
            if kept is not None:
                kept.make(None)
                for name, array in kept.memory().items():
                    np.copyto(array, given[name])
        optimizer.restore(saved["counters"], [kept for kept, _, _ in plans if kept is not None])


def _plan(optimizer, table, numbers, tensors):
    """What is to be kept of a table, or None; its arrays by name; the learning rates of its rows, or None."""
    given = {name: memory_of(tensor.cpu().contiguous()) for name, tensor in tensors.items()}
    scales, kept = given.pop("scales", None), None
    if scales is not None:
        trained.check_array(table.name, "scales", scales, np.empty(len(table), table.rows.real))
    if numbers is not None:
        kept = optimizer.restored(table, numbers, given)
        for name, array in kept.memory().items():
            if name not in given:
                raise ValueError(f"the state must have {name!r} of {table!r}. Received: {list(given)}")
            given[name] = _as(given[name], array)
            trained.check_array(table.name, name, given[name], array)
    return kept, given, scales


def _as(given, array):
    """Bytes of codes as the codes that they are."""
    if array.dtype.names is None or given.shape != (len(array), array.dtype.itemsize):
        return given
    return given.view(array.dtype).reshape(-1)
