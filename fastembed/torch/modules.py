"""The modules, with the arguments of torch's own.

May import: torch.arrays, torch.look_up, torch.state, bridge, dtypes, initializers, layers, ops, slices, table, threads.
Do not break: nothing of the size of the table is a parameter or a buffer, so that no optimizer, device or dtype of
torch meets it.
"""

import weakref

import torch
from torch.utils.hooks import unserializable_hook

from fastembed import dtypes, initializers, layers, ops
from fastembed.bridge import Trained
from fastembed.slices import IndexedSlices
from fastembed.table import Table
from fastembed.threads import Lock
from fastembed.torch import state
from fastembed.torch.arrays import memory_of, storage_of, tensor_of
from fastembed.torch.look_up import look_up, register

_REASONS = {
    "max_norm": "torch rescales rows whenever they are looked up; embeddings_constraint="
    "fastembed.constraints.MaxNorm(..., axis=1) does so when they are trained",
    "scale_grad_by_freq": "gradients are never divided by how often an id occurs",
}


def _refuse(**arguments):
    for name, value in arguments.items():
        if value is not None and value is not False:
            raise ValueError(f"`{name}` must not be set: {_REASONS[name]}. Received: {name}={value!r}")


def _row(padding_idx, num_embeddings):
    """torch counts a negative one from the end."""
    negative = isinstance(padding_idx, int) and -num_embeddings <= padding_idx < 0
    return padding_idx + num_embeddings if negative else padding_idx


def _layer(kind, num_embeddings, embedding_dim, weight, dtype, arguments):
    """A layer of this library; it uses the memory of `weight`, if it can."""
    if weight is None:
        if arguments.get("embeddings_initializer") is None:
            seed = torch.randint(2**62, (), device="cpu").item()  # torch.manual_seed governs it
            arguments["embeddings_initializer"] = initializers.RandomNormal(stddev=1.0, seed=seed)
        layer = kind(num_embeddings, embedding_dim, dtype=storage_of(dtype), **arguments)
        layer.build()
        return layer
    if tuple(weight.shape) != (num_embeddings, embedding_dim):
        raise ValueError(
            f"`_weight` must have shape {(num_embeddings, embedding_dim)}. Received: shape {tuple(weight.shape)}"
        )
    array = memory_of(weight.detach().cpu().contiguous())
    layer = kind(num_embeddings, embedding_dim, dtype=storage_of(weight.dtype), **arguments)
    if layer.path is None:
        layer.adopt(Table.wrap(array))
    else:
        layer.embeddings.assign(array)
    return layer


class _Module(torch.nn.Module):
    """What both modules are: a layer of this library, and an anchor by which autograd reaches it."""

    def __init__(self, layer, *, optimizer=None, fused=False, device=None, dtype=None, frozen=False):
        super().__init__()
        if bool(fused) != (optimizer is not None):
            raise ValueError(
                "`optimizer` must be given with fused=True, and only then; else fastembed.torch.Optimizer takes the "
                f"steps. Received: optimizer={optimizer!r}, fused={fused!r}"
            )
        dtype = getattr(torch, layer.compute_dtype) if dtype is None else dtype
        self.anchor = torch.nn.Parameter(torch.zeros((), device=device, dtype=dtype))
        self.trained = Trained(layer, optimizer)
        self.fused = bool(fused)
        self.embedding_dim, self.pooled = layer.output_dim, isinstance(layer, layers.EmbeddingBag)
        self._gradients = None  # of the backward passes since the anchor has had a gradient
        self._lock = Lock()
        self._begin()
        self.anchor.requires_grad_(not frozen)

    @classmethod
    def from_layer(cls, layer, *, optimizer=None, fused=False, device=None, dtype=None):
        """Makes a module of a layer of this library, such as one that `fastembed.load` gave.

        Args:
            layer: a `fastembed.Embedding` (or EmbeddingBag, for a module of that name).
            optimizer, fused, device, dtype: as for the class; None: what the layer returns, on the host.

        Raises:
            TypeError: a layer of another class.
        """
        kind = getattr(layers, cls.__name__)
        if type(layer) is not kind:
            raise TypeError(f"`layer` must be a fastembed.{cls.__name__}. Received: {layer!r}")
        module = cls.__new__(cls)
        _Module.__init__(module, layer, optimizer=optimizer, fused=fused, device=device, dtype=dtype)
        return module

    @classmethod
    def from_pretrained(cls, embeddings, freeze=True, **arguments):
        """Makes a module on the memory of a tensor: no copy of one that is contiguous and in host memory.

        Args:
            embeddings: tensor (num_embeddings, embedding_dim) of float32, float64, bfloat16 or float16.
            freeze: bool. True: the module is not trained, until `requires_grad_(True)`.
            **arguments: the others of the class, by name.

        Raises:
            ValueError, TypeError: another shape or dtype, or wrong arguments.
        """
        if embeddings.dim() != 2:
            raise ValueError(f"`embeddings` must be a matrix. Received: shape {tuple(embeddings.shape)}")
        return cls(*embeddings.shape, _weight=embeddings, _freeze=freeze, **arguments)

    # ---- the table -------------------------------------------------------------------------------------------------

    @property
    def layer(self):
        """The layer of this library, with all that it offers: `resize`, `freeze` of its table, LoRA, ..."""
        return self.trained.layer

    @property
    def optimizer(self):
        """What takes the steps where fused=True, else None."""
        return self.trained.optimizer

    @property
    def num_embeddings(self):
        """int, the rows of the table."""
        return self.layer.input_dim

    @property
    def padding_idx(self):
        """int or None."""
        return self.layer.padding_idx

    @property
    def weight(self):
        """The table as a tensor on its own memory, up to date at this moment; it needs no gradient and is no parameter.
        After `layer.resize` it is another one."""
        table = self.layer.embeddings
        if table.storage in dtypes.QUANTISED:
            raise TypeError(f"`weight` must be floats; `layer.embeddings` has codes. Received: {table!r}")
        return tensor_of(table.numpy())

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        """One tensor, torch's: the table's memory itself, as torch's own state dicts are."""
        if self.layer.lora_enabled:
            raise ValueError("`state_dict` has the table alone: call layer.merge_lora() first. Received: LoRA")
        destination[f"{prefix}weight"] = self.weight

    def _load_from_state_dict(self, state_dict, prefix, metadata, strict, missing, unexpected, errors):
        key = f"{prefix}weight"
        if strict:
            unexpected += [other for other in state_dict if other.startswith(prefix) and other != key]
            missing += [key] * (key not in state_dict)
        if key not in state_dict:
            return
        weight, table = state_dict[key].detach(), self.layer.embeddings
        if tuple(weight.shape) != table.shape:
            errors.append(f"`{key}` must have shape {table.shape}. Received: shape {tuple(weight.shape)}")
            return
        array = memory_of(weight.cpu().contiguous())
        if array.dtype == "uint16" and table.storage != "bfloat16":  # bits of bfloat16 that NumPy cannot read
            array = weight.float().cpu().numpy()
        table.assign(array)

    # ---- gradients -------------------------------------------------------------------------------------------------

    def _begin(self):
        """What a new object, or a copy, needs: a handle for operators, and to hear of the anchor's gradient."""
        self.handle = register(self.trained)
        self._listen()

    def _listen(self):
        module = weakref.ref(self)

        @unserializable_hook
        def hear(gradient):
            held = module()
            return gradient if held is None else held._arrived(gradient)

        needed = self.anchor.requires_grad
        self.anchor.requires_grad_(True).register_hook(hear)
        self.anchor.requires_grad_(needed)

    def _arrived(self, zero):
        """A backward pass is through with all look-ups of this module. Returns the gradient of the anchor."""
        if self.fused:
            self.trained.step()
            return zero
        with self._lock:
            if self.anchor.grad is None:  # who zeroes gradients means ours too
                self._gradients, self.anchor.grad = None, torch.zeros_like(self.anchor)
            came, before = self.trained.take(), self._gradients
            if came is None:
                return zero
            self._gradients = came if before is None else [a + b for a, b in zip(before, came, strict=True)]
        parts = [gradient.parts if isinstance(gradient, IndexedSlices) else gradient for gradient in came]
        return zero if all(map(ops.finite, parts)) else torch.full_like(zero, float("nan"))

    def take_gradients(self):
        """Returns and forgets the gradients that wait for a step: a list, one for each of `layer.trainable_weights`; or
        None, if there are none, or the anchor's gradient was set to None meanwhile."""
        with self._lock:
            gradients, self._gradients = self._gradients, None
        return None if self.anchor.grad is None else gradients

    def optimizer_state_dict(self):
        """The state of the optimizer of a module with fused=True, for `torch.save`; see `Optimizer.state_dict`."""
        return state.state_of(self._fused_optimizer(), self.layer.trainable_weights)

    def load_optimizer_state_dict(self, state_dict):
        """Goes on from what `optimizer_state_dict` gave.

        Args:
            state_dict: dict.

        Raises:
            ValueError: the state of another optimizer, or of another table.
        """
        state.restore(self._fused_optimizer(), self.layer.trainable_weights, state_dict)

    def _fused_optimizer(self):
        if not self.fused:
            raise ValueError("`fused` must be True for a module to have an optimizer. Received: fused=False")
        return self.optimizer

    # ---- what torch asks of modules --------------------------------------------------------------------------------

    def _apply(self, function, recurse=True):
        anchor = self.anchor
        super()._apply(function, recurse)
        if self.anchor is not anchor:
            self._listen()
        return self

    def __setstate__(self, state):
        super().__setstate__(state)
        self._begin()

    def extra_repr(self):
        """The sizes, and what is not the default."""
        parts = [f"{self.num_embeddings}, {self.embedding_dim}"]
        parts += [f"padding_idx={self.padding_idx}"] * (self.padding_idx is not None)
        if self.pooled:
            parts.append(f"mode={self.layer.combiner!r}")
        parts += [f"dtype={self.layer.dtype}"] * (self.layer.dtype != "float32")
        parts += [f"fused=True, optimizer={self.optimizer!r}"] * self.fused
        return ", ".join(parts)


class Embedding(_Module):
    """`torch.nn.Embedding` on a table of this library.

    The table stays in host memory whatever `.to(...)` says; look-ups return what the module's `anchor` is, a parameter
    of one zero by which autograd reaches the table: its device and its dtype.

    Args:
        num_embeddings, embedding_dim: the sizes of the table.
        padding_idx: id whose row is zero at first and has no gradient, or None; a negative one counts from the end.
        max_norm, norm_type, scale_grad_by_freq: as torch names them; only the defaults are taken.
        sparse: taken and not looked at: gradients are always row-sparse.
        _weight: tensor to begin with, whose memory the table then uses; `from_pretrained` gives it.
        _freeze: bool; True: not trained until `requires_grad_(True)`.
        device: where look-ups return to, or None for torch's default.
        dtype: torch's float32, float64, bfloat16 or float16, or None for torch's default: that of the table, and of
            what look-ups return. `module.float()` afterwards changes the latter alone.
        optimizer: what takes the steps where fused=True: an optimizer of this library, its name or its config.
        fused: True: the backward pass takes a step of `optimizer` at its end. False: `fastembed.torch.Optimizer` does.
        **arguments: those of `fastembed.Embedding`: path, lazy, embeddings_initializer (None: torch's, normal with
            standard deviation 1), embeddings_constraint, ...

    Raises:
        ValueError, TypeError: wrong arguments, or some of torch that are not there.

    Source: torch.nn.Embedding.

    Example:
        >>> import torch, fastembed.torch
        >>> words = fastembed.torch.Embedding(1000, 8, padding_idx=0)
        >>> optimizer = fastembed.torch.Optimizer([words], "adam")
        >>> ids = torch.tensor([[4, 8, 0], [15, 4, 4]])
        >>> words(ids).shape
        torch.Size([2, 3, 8])
        >>> words(ids).square().sum().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        num_embeddings,
        embedding_dim,
        padding_idx=None,
        max_norm=None,
        norm_type=2.0,
        scale_grad_by_freq=False,
        sparse=False,
        _weight=None,
        _freeze=False,
        device=None,
        dtype=None,
        *,
        optimizer=None,
        fused=False,
        **arguments,
    ):
        _refuse(max_norm=max_norm, scale_grad_by_freq=scale_grad_by_freq)
        arguments["padding_idx"] = _row(padding_idx, num_embeddings)
        layer = _layer(layers.Embedding, num_embeddings, embedding_dim, _weight, dtype, arguments)
        dtype = (dtype or torch.get_default_dtype()) if _weight is None else _weight.dtype
        super().__init__(layer, optimizer=optimizer, fused=fused, device=device, dtype=dtype, frozen=_freeze)

    def forward(self, input):
        """Looks ids up.

        Args:
            input: int32 or int64 tensor of any shape, or a nested one of layout `torch.jagged`.

        Returns:
            tensor of shape (*input.shape, embedding_dim); a jagged one for a jagged one, with the same offsets.

        Raises:
            IndexError: an id outside the table, with its position. TypeError: another dtype or layout.
        """
        if not input.is_nested:
            return look_up(self, input, None, None)
        values, offsets = _jagged(input)
        return torch.nested.nested_tensor_from_jagged(look_up(self, values, None, None), offsets)


class EmbeddingBag(_Module):
    """`torch.nn.EmbeddingBag` on a table of this library; see `Embedding`.

    Args:
        num_embeddings, embedding_dim: the sizes of the table.
        max_norm, norm_type, scale_grad_by_freq: as torch names them; only the defaults are taken.
        mode: "mean" | "sum" | "max" | "sqrtn"; `fastembed.EmbeddingBag.call` has the formulas. All but torch's own take
            weights and their gradients in all modes; a weighted mean divides by the sum of the weights.
        sparse: taken and not looked at: gradients are always row-sparse.
        _weight: tensor to begin with, whose memory the table then uses; `from_pretrained` gives it.
        include_last_offset: True: `offsets` has one more at its end, the number of ids.
        padding_idx: id that is left out of bags and has no gradient, or None; a negative one counts from the end.
        device, dtype, optimizer, fused: as in `Embedding`.
        _freeze: bool; True: not trained until `requires_grad_(True)`.
        **arguments: those of `fastembed.EmbeddingBag`.

    Raises:
        ValueError, TypeError: wrong arguments, or some of torch that are not there.

    Source: torch.nn.EmbeddingBag.

    Example:
        >>> import torch, fastembed.torch
        >>> bag = fastembed.torch.EmbeddingBag(1000, 8, mode="sum", optimizer="adagrad", fused=True)
        >>> ids, offsets = torch.tensor([4, 8, 15, 16]), torch.tensor([0, 3])
        >>> pooled = bag(ids, offsets)
        >>> pooled.shape
        torch.Size([2, 8])
        >>> pooled.square().sum().backward()  # the table has taken its step
        >>> bag.optimizer.iterations
        1
    """

    def __init__(
        self,
        num_embeddings,
        embedding_dim,
        max_norm=None,
        norm_type=2.0,
        scale_grad_by_freq=False,
        mode="mean",
        sparse=False,
        _weight=None,
        include_last_offset=False,
        padding_idx=None,
        device=None,
        dtype=None,
        *,
        optimizer=None,
        fused=False,
        _freeze=False,
        **arguments,
    ):
        _refuse(max_norm=max_norm, scale_grad_by_freq=scale_grad_by_freq)
        arguments |= {"padding_idx": _row(padding_idx, num_embeddings), "combiner": mode}
        layer = _layer(layers.EmbeddingBag, num_embeddings, embedding_dim, _weight, dtype, arguments)
        dtype = (dtype or torch.get_default_dtype()) if _weight is None else _weight.dtype
        super().__init__(layer, optimizer=optimizer, fused=fused, device=device, dtype=dtype, frozen=_freeze)
        self.include_last_offset = bool(include_last_offset)

    include_last_offset = False  # of a module that from_layer made

    @property
    def mode(self):
        """How bags are pooled."""
        return self.layer.combiner

    def forward(self, input, offsets=None, per_sample_weights=None):
        """Pools bags of ids.

        Args:
            input: int32 or int64 tensor: (bags, k), with `offsets` (n,), or a nested one of layout `torch.jagged`.
            offsets: int32 or int64 tensor (bags,), where bags begin in `input`; (bags + 1,) with `include_last_offset`.
            per_sample_weights: tensor of floats in the shape of `input`, or None.

        Returns:
            tensor (bags, embedding_dim); an empty bag gives zeros.

        Raises:
            IndexError: an id outside the table, with its position. ValueError, TypeError: wrong shapes or dtypes.
        """
        if input.is_nested:
            if offsets is not None:
                raise ValueError("`offsets` must be None for a nested `input`. Received: a tensor")
            input, offsets = _jagged(input)
            if per_sample_weights is not None and per_sample_weights.is_nested:
                per_sample_weights, of_weights = _jagged(per_sample_weights)
                if not torch.compiler.is_compiling() and not torch.equal(offsets, of_weights):
                    raise ValueError("`per_sample_weights` must have the offsets of `input`. Received: others")
        elif (offsets is None) != (input.dim() == 2):
            raise ValueError(
                "`offsets` must be given for an `input` of one dimension, and be None for one of two. Received: "
                f"input of shape {tuple(input.shape)}, offsets {'None' if offsets is None else 'given'}"
            )
        elif offsets is not None and not self.include_last_offset:
            offsets = torch.cat([offsets, offsets.new_full((1,), input.shape[0])])
        if per_sample_weights is not None and per_sample_weights.shape != input.shape:
            raise ValueError(
                f"`per_sample_weights` must have the shape of `input`, {tuple(input.shape)}. Received: "
                f"shape {tuple(per_sample_weights.shape)}"
            )
        return look_up(self, input, offsets, per_sample_weights)


def _jagged(nested):
    """The values and offsets of a nested tensor."""
    if nested.layout != torch.jagged or nested.lengths() is not None or nested._ragged_idx != 1:
        raise TypeError(
            "a nested tensor must have layout=torch.jagged, no gaps, and be ragged in dimension 1. Received: layout "
            f"{nested.layout}"
        )
    return nested.values(), nested.offsets()
