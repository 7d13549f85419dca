"""The state of an optimizer as dicts of numbers and arrays, for the files of frameworks.

May import: checkpoint.trained. Do not break: everything is checked before anything is changed; arrays are the memory
of the state itself.
"""

import copy

import numpy as np

from fastembed.checkpoint import trained


def state_of(optimizer, tables):
    """The state of an optimizer, of its variables in the order of `tables`, whose rows catch up with missed steps.

    Returns:
        {"optimizer": class and settings, "counters": numbers, "numbers": {place: numbers}, "state": {place: {name:
        array}}}; all but the arrays are what JSON holds, though its keys are strings.
    """
    optimizer.catch_up()  # the tables are saved elsewhere, and up to date
    with optimizer.held(tables):
        counters, known = optimizer.snapshot()
        known = {id(kept.variable): kept for kept in known}
        numbers, arrays = {}, {}
        for place, table in enumerate(tables):
            kept = known.get(id(table))
            if kept is not None:
                kept.make(None)
            of_table, arrays[place] = trained.snapshot(table, kept)
            del arrays[place]["weights"]
            if kept is not None:
                numbers[place] = copy.deepcopy(of_table)
    return {"optimizer": optimizer.described(), "counters": counters, "numbers": numbers, "state": arrays}


def restore(optimizer, tables, saved):
    """Brings an optimizer to what state_of() gave; its tables are already what they were then.

    Raises:
        ValueError: the state of another optimizer, or of other tables. Nothing has changed then.
    """
    ours = optimizer.described()
    if saved["optimizer"] != ours:
        raise ValueError(f"the state must be that of {ours}. Received: {saved['optimizer']}")
    arrays = {int(place): of_table for place, of_table in saved["state"].items()}
    numbers = {int(place): of_table for place, of_table in saved["numbers"].items()}
    if sorted(arrays) != [*range(len(tables))]:
        raise ValueError(f"the state must be that of {len(tables)} tables. Received: {sorted(arrays)}")
    with optimizer.held(tables):
        counters, known = optimizer.snapshot()
        known = {id(kept.variable): kept for kept in known}
        if not trained.same_form(saved["counters"], counters):
            raise ValueError(f"the counters must be those of {optimizer!r}. Received: {saved['counters']}")
        plans = [_plan(optimizer, table, numbers.get(place), arrays[place]) for place, table in enumerate(tables)]
        for table, (kept, given, scales) in zip(tables, plans, strict=True):
            scales_v = trained.prepare(table, known.get(id(table)), scales is not None)
            if scales_v is not None:
                np.copyto(scales_v, scales)
            if kept is not None:
                kept.make(None)
                for name, array in kept.memory().items():
                    np.copyto(array, given[name])
        optimizer.restore(saved["counters"], [kept for kept, _, _ in plans if kept is not None])


def _plan(optimizer, table, numbers, arrays):
    """What is to be kept of a table, or None; its arrays by name; the learning rates of its rows, or None."""
    given, kept = dict(arrays), None
    scales = given.pop("scales", None)
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
