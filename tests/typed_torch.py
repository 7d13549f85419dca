"""A user's program with torch, for tests/test_types.py: `mypy --strict` passes, and it runs.

May import: fastembed and torch. Do not break: no cast, no ignored error.
"""

from typing import Any, assert_type

import torch

import fastembed
import fastembed.torch


class Model(torch.nn.Module):
    """A look-up and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.words = fastembed.torch.EmbeddingBag(100, 8, mode="sum", padding_idx=0, embeddings_constraint=None)
        self.items = fastembed.torch.Embedding(50, 8, optimizer="adam", fused=True, lazy=True)
        self.dense = torch.nn.Linear(8, 1)

    def forward(self, words: torch.Tensor, offsets: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """One number for each bag."""
        pooled = self.words(words, offsets) + self.items(items)
        assert_type(self.words(words, offsets), torch.Tensor)
        return torch.sum(self.dense(pooled))


model = Model()
ours = fastembed.torch.Optimizer(model, fastembed.optimizers.SGD(0.1))
loss = model(torch.tensor([1, 2, 3]), torch.tensor([0, 2]), torch.tensor([4, 5]))
loss.backward()
ours.step()
ours.zero_grad()
assert_type(ours.step(lambda: 1.0), float)
assert_type(model.words.layer, fastembed.EmbeddingBag)
assert_type(model.items.weight, torch.Tensor)
assert_type(model.words.mode.upper(), str)
assert_type(ours.state_dict(), dict[str, Any])
wrapped = fastembed.torch.Embedding.from_layer(fastembed.Embedding(10, 4))
assert_type(wrapped, fastembed.torch.Embedding)
given = fastembed.torch.EmbeddingBag.from_pretrained(torch.ones(3, 4), freeze=False, mode="max")
assert_type(given, fastembed.torch.EmbeddingBag)
fastembed.Embedding(10, 4)(torch.tensor([1, 2]))
assert_type(fastembed.interop.to_torch(fastembed.Ragged.from_lists([[1], [2, 3]])), torch.Tensor)
print("done")
