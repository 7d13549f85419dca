"""Optimizer: our optimizers as `torch.optim` knows them.

May import: torch.modules, torch.state, optimizers. Do not break: all tables take one step together, so that the norm of
all gradients and the count of steps are those of the whole.
"""

import torch

from fastembed import optimizers
from fastembed.torch import state
from fastembed.torch.modules import _Module


class Optimizer(torch.optim.Optimizer):
    """Takes the steps of modules of this library with one of its optimizers; all else of a model is for one of torch's.

    Args:
        modules: `fastembed.torch.Embedding`s and `EmbeddingBag`s, or a model that has them. Those with fused=True are
            left out of a model.
        optimizer: an optimizer of this library, its name or its config.

    Raises:
        ValueError: no module, one that comes twice, or one with fused=True.

    Its one parameter group holds the anchors, whose gradients are zeros (NaN, where the table's is not finite), and
    "lr": schedulers of `torch.optim.lr_scheduler` set the learning rate there. A step takes the gradients of all
    backward passes since the anchors had none: `zero_grad`, here or of the model (to None, torch's default), forgets
    them.

    Example:
        >>> import torch, fastembed.torch
        >>> words = fastembed.torch.Embedding(1000, 8)
        >>> model = torch.nn.Sequential(words, torch.nn.Linear(8, 1))
        >>> ours = fastembed.torch.Optimizer(model, fastembed.optimizers.Adam(0.01))
        >>> theirs = torch.optim.Adam(model.parameters(), 0.01)
        >>> model(torch.tensor([3, 5, 3])).sum().backward()
        >>> ours.step(), theirs.step()
        (None, None)
    """

    _step_supports_amp_scaling = True  # torch.amp.GradScaler leaves the division by its scale to step()

    def __init__(self, modules, optimizer):
        if isinstance(modules, torch.nn.Module):
            modules = [module for module in modules.modules() if isinstance(module, _Module) and not module.fused]
        self.modules = list(modules)
        for module in self.modules:
            if not isinstance(module, _Module) or module.fused:
                raise ValueError(f"`modules` must be those of fastembed.torch, with fused=False. Received: {module!r}")
        if len(set(map(id, self.modules))) != len(self.modules) or not self.modules:
            raise ValueError(f"`modules` must have some module, and none twice. Received: {self.modules}")
        self.optimizer = optimizers.get(optimizer)
        self._rate = self.optimizer.learning_rate
        super().__init__([module.anchor for module in self.modules], {"lr": self._rate})

    def __getstate__(self):
        return {**super().__getstate__(), "modules": self.modules, "optimizer": self.optimizer, "_rate": self._rate}

    def add_param_group(self, param_group):
        """There is one group here: another learning rate needs an `Optimizer` of its own."""
        if self.param_groups:
            raise ValueError(f"there must be one `param_group`. Received: {param_group!r:.100}")
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure=None):
        """Takes a step of all tables that have gradients.

        Args:
            closure: a function that computes the loss and its gradients, or None.

        Returns:
            what closure returned.

        Raises:
            ValueError: a gradient that is not finite (see `on_nonfinite` of the optimizer), or one that
                `GradScaler.unscale_` was called for, which cannot reach it.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        factor = self._factor()
        pairs = []
        for module in self.modules:
            for gradient, table in zip(module.take_gradients() or (), module.layer.trainable_weights, strict=False):
                pairs.append((gradient if factor == 1 else gradient * factor, table))
        rate = float(self.param_groups[0]["lr"])
        if rate != self._rate:  # somebody has set it
            self.optimizer.learning_rate = rate
        if pairs and factor:
            self.optimizer.apply_gradients(pairs)
        self._show_rate()
        return loss

    def _factor(self):
        """What gradients are to be multiplied by; 0: there is no step."""
        if not hasattr(self, "found_inf"):
            return 1
        if self.grad_scale is None:
            raise ValueError("`unscale_` must not be called for the Optimizer of fastembed. Received: a call of it")
        return 0 if self.found_inf.item() else 1 / self.grad_scale.item()

    def _show_rate(self):
        self._rate = self.param_groups[0]["lr"] = self.optimizer.learning_rate

    def zero_grad(self, set_to_none=True):
        """Forgets all gradients.

        Args:
            set_to_none: bool, what becomes of those of the anchors.
        """
        for module in self.modules:
            module.take_gradients()
            module.trained.take()  # of a backward pass that failed
            zero = module.anchor.grad
            module.anchor.grad = None if set_to_none or zero is None else torch.zeros_like(zero)

    def _tables(self):
        return [table for module in self.modules for table in module.layer.trainable_weights]

    def state_dict(self):
        """The state for `torch.save`: "param_groups" and "state" as torch has them (the latter by the place of a table
        among those of the modules), and "fastembed", the rest. Tensors share the memory of the state, as torch's do.
        The rows of the tables catch up with missed steps (untouched="catch_up") first.

        Returns:
            dict of dicts, numbers and tensors, which `torch.load(..., weights_only=True)` reads.
        """
        ours = state.state_of(self.optimizer, self._tables())
        group = {**self.param_groups[0], "params": [*range(len(self.modules))]}
        return {"state": ours.pop("state"), "param_groups": [group], "fastembed": ours}

    def load_state_dict(self, state_dict):
        """Goes on from what `state_dict` gave, with the bits of a training that never stopped.

        Args:
            state_dict: dict.

        Raises:
            ValueError: the state of another optimizer, or of other tables. Nothing has changed then.
        """
        if "fastembed" not in state_dict:
            raise ValueError("`state_dict` must be that of a fastembed.torch.Optimizer. Received: another one")
        state.restore(self.optimizer, self._tables(), {**state_dict["fastembed"], "state": state_dict["state"]})
        group = {key: value for key, value in state_dict["param_groups"][0].items() if key != "params"}
        self.param_groups[0].update(group)
        self._show_rate()
