"""fastembed in JAX: look-ups and row-sparse updates inside `jit` and `grad`.

May import: jax.core, jax.ids. Do not break: importing this module changes no setting of JAX.
"""

from fastembed.jax.ids import Ids

__all__ = ["Ids"]
