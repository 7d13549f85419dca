"""Look-ups and their gradients on torch.

May import: torch. Do not break: arrays share the memory of tensors, and are not written to.
"""

import contextlib

import torch


def check(layer):
    """Any table will do."""


def supports_jit():
    """torch.compile leaves the look-ups out of what it compiles."""
    return True


def call_of(context):
    """The call that look-ups belong to, an object with a __dict__; the model that is called; whether it is trained."""
    return context, context.entry_layer, context.get_value("training")


def eager():
    """For `with`: values of variables can be read."""
    return contextlib.nullcontext()


def place():
    """What a look-up's token belongs to."""


def flat_map(function, ids):
    """function(ids)."""
    return function(ids)


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
