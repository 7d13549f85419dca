"""Random initializers: uniform, normal, truncated normal, and those that a layer's fans scale.

May import: serialization, initializers.base.

Do not break: row r is made of the same random numbers whatever the number of rows,
threads and instruction set; only the scale depends on the rows of the whole table.
"""

import math

from fastembed import serialization
from fastembed.initializers.base import Seeded

# The standard deviation of a standard normal that is cut off at -2 and 2.
TRUNCATED_STDDEV = 0.87962566103423978
MODES = ("fan_in", "fan_out", "fan_avg")
DISTRIBUTIONS = ("truncated_normal", "untruncated_normal", "uniform")


class RandomUniform(Seeded):
    """Uniform in [minval, maxval), in steps of 2^-24 of the range.

    Args:
        minval, maxval: numbers, minval <= maxval.
        seed: int; None for a seed of its own; or the config of a Keras SeedGenerator, for other values at each call.

    Raises:
        TypeError, ValueError: values of another kind, or whose distance does not fit float32.

    Source: Philox4x32-10 (Salmon et al., Parallel random numbers: as easy as 1, 2, 3; 2011).

    Example:
        >>> fastembed.initializers.RandomUniform(seed=1)((10, 4)).shape
        (10, 4)
    """

    legacy_keys = ("minval", "maxval", "seed")

    def __init__(self, minval=-0.05, maxval=0.05, seed=None):
        self.minval = serialization.check_number(minval, "minval")
        self.maxval = serialization.check_number(maxval, "maxval")
        if not (self.minval <= self.maxval and abs(self.minval) + abs(self.maxval) < serialization.LARGEST):
            raise ValueError(
                "`minval` must not exceed `maxval`, and their distance must fit float32. Received: "
                f"minval={minval!r}, maxval={maxval!r}"
            )
        self._set_seed(seed)

    def _write(self, table_vd, numbers, shape):
        self._fill(table_vd, "uniform", self.minval, self.maxval, numbers)

    def get_config(self):
        """Returns {"seed", "minval", "maxval"}."""
        return {"seed": self.seed, "minval": self.minval, "maxval": self.maxval}


class RandomNormal(Seeded):
    """Normal with the given mean and standard deviation, by the quantile of 32 random bits.

    Args:
        mean, stddev: numbers, stddev >= 0.
        seed: int; None for a seed of its own; or the config of a Keras SeedGenerator, for other values at each call.

    Raises:
        TypeError, ValueError: values of another kind, or so large that results do not fit float32.

    Source: quantile by Wichura, Algorithm AS 241 (1988).

    Example:
        >>> fastembed.initializers.RandomNormal(stddev=1.0, seed=1)((10, 4)).shape
        (10, 4)
    """

    legacy_keys = ("mean", "stddev", "seed")
    _kind = "normal"

    def __init__(self, mean=0.0, stddev=0.05, seed=None):
        self.mean = serialization.check_number(mean, "mean")
        self.stddev = serialization.check_number(stddev, "stddev")
        if not (self.stddev >= 0 and abs(self.mean) + 7 * self.stddev < serialization.LARGEST):
            raise ValueError(
                f"`stddev` must be at least 0, and values must fit float32. Received: mean={mean!r}, stddev={stddev!r}"
            )
        self._set_seed(seed)

    def _write(self, table_vd, numbers, shape):
        self._fill(table_vd, self._kind, self.mean, self.stddev, numbers)

    def get_config(self):
        """Returns {"seed", "mean", "stddev"}."""
        return {"seed": self.seed, "mean": self.mean, "stddev": self.stddev}


class TruncatedNormal(RandomNormal):
    """Normal, without what is further than 2 standard deviations from the mean.

    `stddev` is that of the whole distribution; what is left has 0.8796 of it.

    Args:
        mean, stddev: numbers, stddev >= 0.
        seed: int; None for a seed of its own; or the config of a Keras SeedGenerator, for other values at each call.

    Raises:
        TypeError, ValueError: values of another kind, or so large that results do not fit float32.

    Source: the quantile of RandomNormal on the probabilities Phi(-2) to Phi(2), so that nothing is drawn again.

    Example:
        >>> values = fastembed.initializers.TruncatedNormal(stddev=1.0, seed=1)((1000, 4))
        >>> bool(1.9 < np.abs(values).max() <= 2)
        True
    """

    _kind = "truncated_normal"


def _check_axes(axes, name):
    if axes is None:
        return None
    if not isinstance(axes, (list, tuple)) or any(isinstance(a, bool) or not isinstance(a, int) for a in axes):
        raise TypeError(f"`{name}` must be a list of integers or None. Received: {name}={axes!r}")
    return list(axes)


class VarianceScaling(Seeded):
    """Values with mean 0 and variance scale / n; n is a fan of the shape, at least 1.

    "truncated_normal" is cut off at 2 of the standard deviations from before the cut; its variance afterwards is
    scale / n. "uniform" lies in [-limit, limit) with limit = sqrt(3 scale / n). A table (rows, d) has fan_in = rows and
    fan_out = d, as in Keras.

    Args:
        scale: number > 0.
        mode: "fan_in"; "fan_out"; or "fan_avg", their mean.
        distribution: "truncated_normal" or "normal", which are the same; "untruncated_normal"; "uniform".
        seed: int; None for a seed of its own; or the config of a Keras SeedGenerator, for other values at each call.
        input_axes, output_axes: lists of the axes whose sizes make up fan_in and fan_out; they count if both are given.

    Raises:
        TypeError, ValueError: a value of another kind or range; axes that a shape does not have.

    Source: keras.initializers.VarianceScaling.

    Example:
        >>> values = fastembed.initializers.VarianceScaling(3.0, "fan_out", "uniform", seed=1)((1000, 9))
        >>> bool(0.99 < np.abs(values).max() <= 1)
        True
    """

    legacy_keys = ("scale", "mode", "distribution", "seed")
    scales_by_length = True

    def __init__(
        self,
        scale=1.0,
        mode="fan_in",
        distribution="truncated_normal",
        seed=None,
        input_axes=None,
        output_axes=None,
    ):
        self.scale = serialization.check_number(scale, "scale")
        if self.scale <= 0:
            raise ValueError(f"`scale` must be greater than 0. Received: scale={scale!r}")
        if mode not in MODES:
            raise ValueError(f"`mode` must be one of {list(MODES)}. Received: mode={mode!r}")
        self.mode = mode
        name = distribution.lower() if isinstance(distribution, str) else distribution
        self.distribution = "truncated_normal" if name == "normal" else name
        if self.distribution not in DISTRIBUTIONS:
            raise ValueError(
                f"`distribution` must be one of {list(DISTRIBUTIONS)}. Received: distribution={distribution!r}"
            )
        self.input_axes = _check_axes(input_axes, "input_axes")
        self.output_axes = _check_axes(output_axes, "output_axes")
        self._set_seed(seed)

    def _fans(self, shape):
        """(fan_in, fan_out) of a shape; of a convolution's kernel if it has more than two dimensions."""
        if self.input_axes is not None and self.output_axes is not None:
            try:
                return tuple(math.prod(shape[axis] for axis in axes) for axes in (self.input_axes, self.output_axes))
            except IndexError:
                raise ValueError(
                    "`input_axes` and `output_axes` must be axes of the shape. Received: "
                    f"input_axes={self.input_axes}, output_axes={self.output_axes}, shape={shape}"
                ) from None
        if len(shape) < 2:
            return (*shape, 1)[0], (*shape, 1)[0]
        field = math.prod(shape[:-2])
        return field * shape[-2], field * shape[-1]

    def _write(self, table_vd, numbers, shape):
        fan_in, fan_out = self._fans(shape)
        n = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[self.mode]
        stddev = math.sqrt(self.scale / max(1.0, n))
        if self.distribution == "uniform":
            limit = math.sqrt(3.0) * stddev
            self._fill(table_vd, "uniform", -limit, limit, numbers)
        elif self.distribution == "untruncated_normal":
            self._fill(table_vd, "normal", 0.0, stddev, numbers)
        else:
            self._fill(table_vd, "truncated_normal", 0.0, stddev / TRUNCATED_STDDEV, numbers)

    def get_config(self):
        """Returns {"seed", "scale", "mode", "distribution", "input_axes", "output_axes"}."""
        return {
            "seed": self.seed,
            "scale": self.scale,
            "mode": self.mode,
            "distribution": self.distribution,
            "input_axes": self.input_axes,
            "output_axes": self.output_axes,
        }

    def legacy_config(self):
        """Returns the config as Keras 2.9 writes it; ValueError where axes are given, which it does not know."""
        if self.input_axes is not None and self.output_axes is not None:
            raise ValueError(
                "`input_axes` and `output_axes` must be None in a config of Keras 2.9. Received: "
                f"input_axes={self.input_axes}, output_axes={self.output_axes}"
            )
        return super().legacy_config()


class _Named(VarianceScaling):
    """VarianceScaling with a name for its scale, mode and distribution."""

    legacy_keys = ("seed",)
    _settings = ()

    def __init__(self, seed=None, input_axes=None, output_axes=None):
        super().__init__(*self._settings, seed, input_axes, output_axes)

    def get_config(self):
        """Returns {"seed", "input_axes", "output_axes"}."""
        return {"seed": self.seed, "input_axes": self.input_axes, "output_axes": self.output_axes}


class GlorotUniform(_Named):
    """Uniform in [-limit, limit), limit = sqrt(6 / (fan_in + fan_out)). Arguments: see VarianceScaling.

    Source: Glorot and Bengio, Understanding the difficulty of training deep feedforward neural networks (2010).

    Example:
        >>> bool(np.abs(fastembed.initializers.GlorotUniform(seed=1)((50, 4))).max() < (6 / 54) ** 0.5)
        True
    """

    _settings = (1.0, "fan_avg", "uniform")


class GlorotNormal(_Named):
    """Truncated normal with standard deviation sqrt(2 / (fan_in + fan_out)). Arguments: see VarianceScaling.

    Source: Glorot and Bengio, Understanding the difficulty of training deep feedforward neural networks (2010).

    Example:
        >>> fastembed.initializers.GlorotNormal(seed=1)
        GlorotNormal(seed=1, input_axes=None, output_axes=None)
    """

    _settings = (1.0, "fan_avg", "truncated_normal")


class HeUniform(_Named):
    """Uniform in [-limit, limit), limit = sqrt(6 / fan_in). Arguments: see VarianceScaling.

    Source: He et al., Delving deep into rectifiers (2015).

    Example:
        >>> bool(np.abs(fastembed.initializers.HeUniform(seed=1)((50, 4))).max() < (6 / 50) ** 0.5)
        True
    """

    _settings = (2.0, "fan_in", "uniform")


class HeNormal(_Named):
    """Truncated normal with standard deviation sqrt(2 / fan_in). Arguments: see VarianceScaling.

    Source: He et al., Delving deep into rectifiers (2015).

    Example:
        >>> fastembed.initializers.HeNormal(seed=1)
        HeNormal(seed=1, input_axes=None, output_axes=None)
    """

    _settings = (2.0, "fan_in", "truncated_normal")


class LecunUniform(_Named):
    """Uniform in [-limit, limit), limit = sqrt(3 / fan_in). Arguments: see VarianceScaling.

    Source: Klambauer et al., Self-normalizing neural networks (2017).

    Example:
        >>> bool(np.abs(fastembed.initializers.LecunUniform(seed=1)((50, 4))).max() < (3 / 50) ** 0.5)
        True
    """

    _settings = (1.0, "fan_in", "uniform")


class LecunNormal(_Named):
    """Truncated normal with standard deviation sqrt(1 / fan_in). Arguments: see VarianceScaling.

    Source: Klambauer et al., Self-normalizing neural networks (2017).

    Example:
        >>> fastembed.initializers.LecunNormal(seed=1)
        LecunNormal(seed=1, input_axes=None, output_axes=None)
    """

    _settings = (1.0, "fan_in", "truncated_normal")
