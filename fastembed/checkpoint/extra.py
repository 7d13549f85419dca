"""What else a training follows from: random generators, and small things of the user's.

May import: nothing of the package. Do not break: what comes back has the type, the dtype and the bits of what was
given.
"""

import json

import numpy as np

_GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")


def as_json(generator):
    """The state of a Generator, or None, as JSON."""

    def plain(thing):
        if isinstance(thing, dict):
            return {key: plain(value) for key, value in thing.items()}
        return thing.tolist() if isinstance(thing, (np.ndarray, np.generic)) else thing

    return None if generator is None else plain(generator.bit_generator.state)


def from_json(state):
    """A new Generator of a state, or None."""
    if state is None:
        return None
    if state["bit_generator"] not in _GENERATORS:
        raise ValueError(f"a generator must be one of {_GENERATORS}. Received: {state['bit_generator']!r}")
    generator = np.random.Generator(getattr(np.random, state["bit_generator"])())
    generator.bit_generator.state = state
    return generator


def split_extra(extra):
    """(what save.json says of `extra`, its arrays by name)."""
    if extra is None:
        return None, {}
    if not isinstance(extra, dict) or not all(isinstance(name, str) for name in extra):
        raise TypeError(f"`extra` must be a dict with strings as names. Received: extra={extra!r:.100}")
    said, arrays = {"json": {}, "generators": {}, "arrays": {}}, {}
    for name, value in extra.items():
        if isinstance(value, np.ndarray):
            if value.dtype.kind not in "biufcmMSU":
                raise TypeError(f"`extra` must have arrays of numbers or strings. Received: {name!r} of {value.dtype}")
            arrays[name] = np.array(value, order="C")
            said["arrays"][name] = [arrays[name].dtype.str, *value.shape]
        elif isinstance(value, np.random.Generator):
            if type(value.bit_generator).__name__ not in _GENERATORS:
                raise TypeError(f"`extra` must have generators of {_GENERATORS}. Received: {name!r}: {value!r}")
            said["generators"][name] = as_json(value)
        else:
            said["json"][name] = json.loads(json.dumps(value))
    return said, arrays


def joined_extra(chain):
    """The `extra` of a save, as it was given."""
    said = chain.about["extra"]
    if said is None:
        return None
    generators = {name: from_json(state) for name, state in said["generators"].items()}
    arrays = {name: stored.load() for name, stored in chain.extra.items()}
    return {**said["json"], **generators, **arrays}
