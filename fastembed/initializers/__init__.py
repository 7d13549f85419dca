"""Initializers: what a new table holds. All identifiers of Keras 2.9 and 3; values are made in the table, in parallel.

May import: serialization and its own base, constants, orthogonal and random. Do not break: a name in a config is looked
up here, never imported.
"""

import numpy as np

from fastembed import serialization
from fastembed.initializers.base import Initializer, set_random_seed
from fastembed.initializers.constants import STFT, Constant, Function, Identity, Ones, Zeros
from fastembed.initializers.orthogonal import Orthogonal
from fastembed.initializers.random import (
    GlorotNormal,
    GlorotUniform,
    HeNormal,
    HeUniform,
    LecunNormal,
    LecunUniform,
    RandomNormal,
    RandomUniform,
    TruncatedNormal,
    VarianceScaling,
)

__all__ = [
    "Constant",
    "GlorotNormal",
    "GlorotUniform",
    "HeNormal",
    "HeUniform",
    "Identity",
    "Initializer",
    "LecunNormal",
    "LecunUniform",
    "Ones",
    "Orthogonal",
    "RandomNormal",
    "RandomUniform",
    "TruncatedNormal",
    "VarianceScaling",
    "Zeros",
    "get",
    "set_random_seed",
]

# Each class by its name, by its other class names in either generation of Keras, and by its short names.
_NAMES = {
    Constant: (["ConstantV2"], ["constant"]),
    GlorotNormal: (["GlorotNormalV2"], ["glorot_normal", "glorot_normalV2"]),
    GlorotUniform: (["GlorotUniformV2"], ["glorot_uniform", "glorot_uniformV2"]),
    HeNormal: (["HeNormalV2"], ["he_normal", "he_normalV2"]),
    HeUniform: (["HeUniformV2"], ["he_uniform", "he_uniformV2"]),
    Identity: (["IdentityV2", "IdentityInitializer"], ["identity"]),
    LecunNormal: (["LecunNormalV2"], ["lecun_normal", "lecun_normalV2"]),
    LecunUniform: (["LecunUniformV2"], ["lecun_uniform", "lecun_uniformV2"]),
    Ones: (["OnesV2"], ["ones", "one"]),
    Orthogonal: (["OrthogonalV2", "OrthogonalInitializer"], ["orthogonal"]),
    RandomNormal: (["RandomNormalV2"], ["random_normal", "normal"]),
    RandomUniform: (["RandomUniformV2"], ["random_uniform", "uniform"]),
    STFT: (["STFTInitializer"], ["stft"]),
    TruncatedNormal: (["TruncatedNormalV2"], ["truncated_normal"]),
    VarianceScaling: (["VarianceScalingV2"], ["variance_scaling"]),
    Zeros: (["ZerosV2"], ["zeros", "zero"]),
}
_CLASSES = {name: cls for cls, (others, _) in _NAMES.items() for name in (cls.__name__, *others)}
_ALIASES = {alias: cls.__name__ for cls, (_, aliases) in _NAMES.items() for alias in aliases}
serialization.know("initializer", _CLASSES, _ALIASES)


def get(identifier):
    """Returns an initializer for any identifier that Keras 2.9 or 3 takes; None stays None.

    Args:
        identifier: a name ("uniform", "GlorotUniform"); a config of either generation; a class; an instance, one of
            Keras's too, which becomes ours by its config; an array, which must have the table's shape; or a function
            that returns an array when called with (shape, dtype=...).

    Returns:
        Initializer, or None.

    Raises:
        ValueError, TypeError: nothing goes by that name, or its config is wrong. `STFT` is refused, as it makes no
            tables.

    Source: keras.initializers.get.

    Example:
        >>> fastembed.initializers.get("uniform")
        RandomUniform(seed=None, minval=-0.05, maxval=0.05)
        >>> fastembed.initializers.get(np.eye(3))
        Constant(value=<float64 (3, 3)>)
    """
    if isinstance(identifier, type) or not hasattr(identifier, "__array__"):
        identifier = serialization.get(identifier, "initializer")
    if identifier is None or isinstance(identifier, Initializer):
        return identifier
    if hasattr(identifier, "__array__"):
        return Constant.of_array(np.asarray(identifier))
    return Function(identifier)
