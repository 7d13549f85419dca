"""A user's program with JAX, for tests/test_types.py: `mypy --strict` passes, and it runs.

May import: fastembed and JAX. Do not break: no cast, no ignored error.
"""

from typing import assert_type

import jax
import jax.numpy as jnp
import numpy as np

import fastembed

words = fastembed.jax.EmbeddingBag(1000, 8, combiner="sum", optimizer=fastembed.optimizers.Adam(0.01))
items = fastembed.jax.Embedding(1000, 8, optimizer="sgd")


def loss(anchor: jax.Array, ids: jax.Array) -> jax.Array:
    """Of two look-ups in one step."""
    token = words.open(anchor)
    return jnp.sum(words(token, ids) - words(token, ids + 1))


anchor = words.init()
jax.grad(loss)(anchor, jnp.asarray([[1, 2], [2, 3]]))
ragged = fastembed.Ragged.from_lists([[1, 2], [3]])
assert_type(words(anchor, ragged, np.ones(3)), jax.Array)
assert_type(items(items.init(), ragged), fastembed.Ragged)
assert_type(items(items.init(), [1, 2]), jax.Array)
assert_type(items.layer, fastembed.Embedding)
wide = fastembed.jax.Ids(np.array([[7, 8]]))
assert wide.reshape(2).shape == wide.reshape((2,)).shape and len(wide[0]) == 2 and wide.numpy().size == wide.ndim
layer = fastembed.jax.wrap(fastembed.Embedding(10, 4)).layer
first = fastembed.jax.update(layer, fastembed.optimizers.SGD(0.5), [3, 3], np.ones((2, 4), np.float32))
assert_type(first, jax.Array)
assert_type(fastembed.jax.look_up(fastembed.EmbeddingBag(10, 4), ragged), jax.Array)
fastembed.jax.look_up(layer, [3], after=first)
print("done")
