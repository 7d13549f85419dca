"""Look-ups and their gradients on torch.

May import: keras.on_any; torch. Do not break: arrays share the memory of tensors, and are not written to.
"""

import torch

from fastembed.keras.on_any import call_of as call_of
from fastembed.keras.on_any import check as check
from fastembed.keras.on_any import eager as eager
from fastembed.keras.on_any import flat_map as flat_map
from fastembed.keras.on_any import place as place


def supports_jit():
    """torch.compile leaves the look-ups out of what it compiles."""
    return True


@torch.compiler.disable
def opened(anchor, steps, call):
    """The value of the anchor; when all gradients have come back to it, the table takes its step."""
    return _Open.apply(anchor.value, steps)


@torch.compiler.disable
def look_up(trained, token, ids, weights, dtype):
    """The rows of ids, or pooled bags, as `dtype`. token: what opened() gave, or None: the table is frozen."""
    return _LookUp.apply(token, trained, ids, weights).to(getattr(torch, dtype))


class _Open(torch.autograd.Function):
    @staticmethod
    def forward(ctx, anchor, steps):
        ctx.steps = steps
        return anchor.clone()

    @staticmethod
    @torch.compiler.disable
    def backward(ctx, upstream):
        ctx.steps.step()
        return torch.zeros_like(upstream), None


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, token, trained, ids, weights):
        ctx.trained, ctx.arrays = trained, (_array(ids), None, None if weights is None else _array(weights))
        return torch.from_numpy(trained.look_up(*ctx.arrays)).to(ids.device)

    @staticmethod
    @torch.compiler.disable
    def backward(ctx, upstream):
        ids, splits, weights = ctx.arrays
        device, upstream, gradient = upstream.device, _array(upstream), None
        if ctx.needs_input_grad[3]:
            gradient = torch.from_numpy(ctx.trained.weights_gradient(ids, upstream, splits, weights)).to(device)
        if ctx.needs_input_grad[0]:
            ctx.trained.collect(ids, upstream, splits, weights)
        return torch.zeros((), device=device) if ctx.needs_input_grad[0] else None, None, None, gradient


def _array(tensor):
    return tensor.detach().cpu().numpy()
