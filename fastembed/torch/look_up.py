"""The look-up as autograd sees it: a Function, and under `torch.compile` an operator with the same insides.

May import: torch.arrays. Do not break: a backward pass reaches us because a look-up depends on the
anchor, a parameter of one zero; the anchor's gradient is a zero that is there when the table's gradient was collected.
"""

import itertools
import weakref

import torch
from torch.autograd.function import once_differentiable

from fastembed.torch.arrays import floats_of, ids_of, tensor_of

_trained = weakref.WeakValueDictionary()  # by handle: operators take numbers and tensors alone
_handles, _numbers = itertools.count(), itertools.count()


def register(trained):
    """The handle of a `Trained`; it is not kept alive."""
    handle = next(_handles)
    _trained[handle] = trained
    return handle


def look_up(module, ids, splits, weights):
    """What the layer of a module returns for ids, differentiable: on the anchor's device and of its dtype."""
    if torch.compiler.is_compiling():
        return _operator(module.anchor, ids, splits, weights, module.handle, module.embedding_dim, module.pooled)
    return _LookUp.apply(module.anchor, ids, splits, weights, module.trained)


def _look_up(trained, anchor, ids, splits, weights):
    """ids, splits: in host memory."""
    return tensor_of(trained.look_up(*_arrays(ids, splits, weights))).to(anchor.device, anchor.dtype)


def _arrays(ids, splits, weights):
    return ids.numpy(), None if splits is None else splits.numpy(), None if weights is None else floats_of(weights)


def _weights_gradient(trained, upstream, arrays, weights):
    ids, splits, array = arrays
    gradient = trained.weights_gradient(ids, upstream, splits, array)
    return torch.from_numpy(gradient).to(weights.device, weights.dtype)


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, anchor, ids, splits, weights, trained):
        ids, splits = ids_of(ids), None if splits is None else ids_of(splits, "offsets")
        ctx.save_for_backward(ids, splits, weights)
        ctx.trained, ctx.device, ctx.dtype = trained, anchor.device, anchor.dtype
        ctx.set_materialize_grads(False)
        return _look_up(trained, anchor, ids, splits, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        of_anchor = of_weights = None
        if upstream is not None:
            ids, splits, weights = ctx.saved_tensors
            upstream, arrays = floats_of(upstream), _arrays(ids, splits, weights)
            if ctx.needs_input_grad[3]:
                of_weights = _weights_gradient(ctx.trained, upstream, arrays, weights)
            if ctx.needs_input_grad[0]:
                if ctx.trained.trains:
                    ctx.trained.collect(arrays[0], upstream, *arrays[1:])
                of_anchor = torch.zeros((), dtype=ctx.dtype, device=ctx.device)
        return of_anchor, None, None, of_weights, None


# ---- under torch.compile ---------------------------------------------------------------------------------------------

_LOOK = "(Tensor anchor, Tensor ids, Tensor? splits, Tensor? weights, int handle, SymInt dim, bool pooled) -> Tensor"
_BACK = "(Tensor upstream, Tensor ids, Tensor? splits, Tensor? weights, int handle"


@torch.library.custom_op("fastembed::look_up", mutates_args=(), schema=_LOOK)
def _operator(anchor, ids, splits, weights, handle, dim, pooled):
    splits = None if splits is None else ids_of(splits, "offsets")
    return _look_up(_trained[handle], anchor, ids_of(ids), splits, weights)


@_operator.register_fake
def _(anchor, ids, splits, weights, handle, dim, pooled):
    if pooled:
        return anchor.new_empty((ids.shape[0] if splits is None else splits.shape[0] - 1, dim))
    return anchor.new_empty((*ids.shape, dim))


@torch.library.custom_op("fastembed::collect", mutates_args=(), schema=f"{_BACK}, int number) -> Tensor")
def _collect(upstream, ids, splits, weights, handle, number):
    trained = _trained[handle]
    if not trained.trains:
        return upstream.new_zeros(())
    # Copies: a compiled program uses the memory of its tensors again, and gradients are kept until the step.
    parts = (ids.cpu(), None if splits is None else splits.cpu(), weights)
    copies = [None if part is None else part.clone() for part in parts]
    arrays = _arrays(*copies)
    trained.collect(arrays[0], floats_of(upstream.clone()), *arrays[1:])
    return upstream.new_zeros(())


@_collect.register_fake
def _(upstream, ids, splits, weights, handle, number):
    return upstream.new_zeros(())


@torch.library.custom_op("fastembed::weights_gradient", mutates_args=(), schema=f"{_BACK}) -> Tensor")
def _gradient_operator(upstream, ids, splits, weights, handle):
    arrays = _arrays(ids_of(ids), None if splits is None else ids_of(splits), weights)
    return _weights_gradient(_trained[handle], floats_of(upstream), arrays, weights)


@_gradient_operator.register_fake
def _(upstream, ids, splits, weights, handle):
    return torch.empty_like(weights)


def _remember(ctx, inputs, output):
    _, ids, splits, weights, ctx.handle, _, _ = inputs
    ctx.save_for_backward(ids, splits, weights)


def _backward(ctx, upstream):
    ids, splits, weights = ctx.saved_tensors
    of_anchor = of_weights = None
    if ctx.needs_input_grad[3]:
        of_weights = _gradient_operator(upstream, ids, splits, weights, ctx.handle)
    if ctx.needs_input_grad[0]:
        # Numbered, as two equal calls of an operator are one to the compiler.
        of_anchor = _collect(upstream, ids, splits, weights, ctx.handle, next(_numbers))
    return of_anchor, None, None, of_weights, None, None, None


_operator.register_autograd(_backward, setup_context=_remember)
