"""The state of our optimizers as torch saves it: dicts of numbers and tensors.

May import: torch.arrays, states. Do not break: tensors share the memory of the state, as those in torch's own state
dicts do.
"""

from fastembed import states
from fastembed.torch.arrays import memory_of, tensor_of


def state_of(optimizer, tables):
    """`states.state_of` with tensors, all of which `torch.load(..., weights_only=True)` reads."""
    return _mapped(states.state_of(optimizer, tables), tensor_of)


def restore(optimizer, tables, saved):
    """`states.restore` from tensors."""
    states.restore(optimizer, tables, _mapped(saved, lambda tensor: memory_of(tensor.cpu().contiguous())))


def _mapped(saved, function):
    state = {place: {name: function(one) for name, one in of.items()} for place, of in saved["state"].items()}
    return {**saved, "state": state}
