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
        restored, into = {}, []
        for place, table in enumerate(tables):
            arrays = {name: tensor.cpu().contiguous() for name, tensor in tensors[place].items()}
            scales = arrays.get("scales")
            if scales is not None:
                scales = memory_of(scales)
                trained.check_array(table.name, "scales", scales, np.empty(len(table), table.rows.real))
            if place in numbers:
                given = {name: memory_of(tensor) for name, tensor in arrays.items()}
                kept = optimizer.restored(table, numbers[place], given)
                for name, array in kept.memory().items():
                    if name not in given:
                        raise ValueError(f"the state must have {name!r} of {table!r}. Received: {list(given)}")
                    given[name] = _as(given[name], array)
                    trained.check_array(table.name, name, given[name], array)
                    into.append((given[name], array))
                restored[id(table)] = kept
            into.append((scales, table))
        for table in tables:
            scaled = any(array is table and given is not None for given, array in into)
            scales_v = trained.prepare(table, known.get(id(table)), scaled)
            into = [(given, scales_v if array is table else array) for given, array in into]
            if id(table) in restored:
                restored[id(table)].make(None)
        for given, array in into:
            if array is not None:
                np.copyto(array, given)
        optimizer.restore(saved["counters"], [*restored.values()])


def _as(given, array):
    """Bytes of codes as the codes that they are."""
    if array.dtype.names is None or given.shape != (len(array), array.dtype.itemsize):
        return given
    return given.view(array.dtype).reshape(-1)
