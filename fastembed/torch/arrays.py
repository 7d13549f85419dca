"""Tensors and arrays on the same memory.

May import: dtypes. Do not break: what lies in host memory is not copied; a copy is made of what lies on another device,
is not contiguous, or is of a dtype that the layers do not take.
"""

import numpy as np
import torch

from fastembed import dtypes

STORAGE = {getattr(torch, name): name for name in dtypes.PLAIN}  # torch's dtypes to ours


def storage_of(dtype):
    """The storage dtype's name; None is torch's default dtype."""
    dtype = torch.get_default_dtype() if dtype is None else dtype
    if dtype not in STORAGE:
        raise TypeError(f"`dtype` must be one of {list(STORAGE)}. Received: dtype={dtype!r}")
    return STORAGE[dtype]


def ids_of(tensor, name="input"):
    """Ids or offsets in host memory, contiguous; the tensor itself if it is that."""
    if tensor.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"`{name}` must be int32 or int64. Received: a tensor of {tensor.dtype}")
    return tensor.cpu().contiguous()


def floats_of(tensor):
    """An array of float32 or float64 of a tensor of floats. It holds the tensor, so that autograd does not take its
    memory for something else."""
    if tensor.requires_grad:
        tensor = tensor.detach()
    if tensor.dtype not in (torch.float32, torch.float64):
        tensor = tensor.to(torch.float32)
    return tensor.cpu().contiguous().numpy()


def memory_of(tensor):
    """The memory of a contiguous tensor in host memory as an array; NumPy has no bfloat16 of its own."""
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(dtypes.bfloat16())
    return tensor.numpy()


def tensor_of(array):
    """The memory of an array as a tensor; codes of less than a float as their bytes."""
    if array.dtype.names is not None:
        return torch.from_numpy(array.view(np.uint8).reshape(len(array), array.dtype.itemsize))
    if dtypes.name_of(array.dtype)[0] == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
