"""Initializers without random numbers: constants, arrays, the identity, and functions of yours.

May import: ops, serialization, initializers.base.

Do not break: whatever is given is checked before anything is written, and no
second table is made.
"""

import numpy as np

from fastembed import ops, serialization
from fastembed.initializers.base import Initializer

_MOST = 2**20  # elements that a config holds


def _read_array(envelope):
    """The array of Keras 3's {"class_name": "__numpy__", "config": {"value": lists, "dtype": name}}."""
    if envelope.get("class_name") not in ("__numpy__", "__tensor__"):
        raise ValueError(f"`value` must be a number or an array. Received: value={envelope!r}")
    return serialization.read_array(envelope.get("config"))


class Constant(Initializer):
    """Every element is `value`, or an array of such a shape that it broadcasts to the table's.

    Args:
        value: a number; or an array, such as one row for all ids (d,), or the whole table (rows, d).

    Raises:
        TypeError, ValueError: no number, or one past float32.

    Source: keras.initializers.Constant, which takes arrays too.

    Example:
        >>> fastembed.initializers.Constant(2.0)((1, 3))
        array([[2., 2., 2.]], dtype=float32)
        >>> fastembed.initializers.Constant([1, 2])((2, 2))
        array([[1., 2.],
               [1., 2.]], dtype=float32)
    """

    legacy_keys = ("value",)
    _exactly = None  # the shape that it makes, for an array that stands for an initializer

    def __init__(self, value=0.0):
        if isinstance(value, dict):
            value = _read_array(value)
        if isinstance(value, (list, tuple)) or getattr(value, "shape", ()) != ():
            self.value = serialization.check_array(value, "value")
        else:
            self.value = serialization.check_number(value, "value", finite=False)

    @classmethod
    def of_array(cls, array):
        """The initializer that an array stands for: no other shape than the array's is made."""
        made = cls(serialization.check_array(array, "initializer"))
        made._exactly = np.shape(made.value)
        return made

    def _write(self, table_vd, numbers, shape):
        value, of = np.asarray(self.value), np.shape(self.value)
        if self._exactly is not None and shape != of:
            raise ValueError(f"`shape` must be {of}, as the initializer's array has. Received: shape={shape}")
        if len(of) > len(shape) or any(n not in (1, m) for n, m in zip(of[::-1], shape[::-1], strict=False)):
            raise ValueError(f"`value` must broadcast to shape {shape}. Received: value of shape {of}")
        if not of or (len(of) == 1 and len(shape) == 2):
            ops.fill(table_vd, "row", row=np.broadcast_to(value.astype(table_vd.dtype), table_vd.shape[1]))
        else:
            these = slice(numbers.start, numbers.stop) if isinstance(numbers, range) else numbers
            rows_vd = np.broadcast_to(value, shape)[these]
            np.copyto(table_vd.reshape(rows_vd.shape), rows_vd, casting="unsafe")

    def get_config(self):
        """Returns {"value"}; an array as Keras 3's "__numpy__" form, of 2^20 elements at most."""
        return {"value": serialization.serialize(self._writable())}

    def legacy_config(self):
        """Returns {"value"}; an array as lists."""
        value = self._writable()
        return {"value": value.tolist() if isinstance(value, np.ndarray) else value}

    def _writable(self):
        """The value; ValueError for an array that is too large for a config."""
        if np.size(self.value) > _MOST:
            raise ValueError(
                f"an array in a config must have at most {_MOST} elements; give large ones as `weights=`. Received: "
                f"shape {self.value.shape}"
            )
        return self.value

    def __repr__(self):
        if isinstance(self.value, np.ndarray):
            return f"{type(self).__name__}(value=<{self.value.dtype} {self.value.shape}>)"
        return super().__repr__()


class Zeros(Constant):
    """Every element is 0.

    Example:
        >>> fastembed.initializers.Zeros()((1, 3))
        array([[0., 0., 0.]], dtype=float32)
    """

    legacy_keys = ()

    def __init__(self):
        super().__init__(0.0)

    def get_config(self):
        """Returns {}."""
        return {}

    def legacy_config(self):
        """Returns {}."""
        return {}


class Ones(Constant):
    """Every element is 1.

    Example:
        >>> fastembed.initializers.Ones()((1, 3))
        array([[1., 1., 1.]], dtype=float32)
    """

    legacy_keys = ()

    def __init__(self):
        super().__init__(1.0)

    def get_config(self):
        """Returns {}."""
        return {}

    def legacy_config(self):
        """Returns {}."""
        return {}


class Identity(Initializer):
    """table[i, i] = gain, and 0 elsewhere.

    Args:
        gain: a number.

    Raises:
        TypeError, ValueError: no finite number; a shape that has not two dimensions.

    Source: keras.initializers.Identity, whose config leaves `gain` out; here it is there unless it is 1.

    Example:
        >>> fastembed.initializers.Identity(3.0)((2, 3))
        array([[3., 0., 0.],
               [0., 3., 0.]], dtype=float32)
    """

    legacy_keys = ("gain",)

    def __init__(self, gain=1.0):
        self.gain = serialization.check_number(gain, "gain")

    def _write(self, table_vd, numbers, shape):
        if len(shape) != 2:
            raise ValueError(f"`shape` must have two dimensions for Identity. Received: shape={shape}")
        ops.fill(table_vd, "row", row=np.zeros(shape[1], np.float32))
        if isinstance(numbers, range):
            numbers = np.arange(numbers.start, min(numbers.stop, max(numbers.start, shape[1])))
        here = np.flatnonzero(numbers < shape[1])
        table_vd[here, numbers[here]] = self.gain

    def get_config(self):
        """Returns {}, as Keras 3 does, or {"gain"} where it is not 1."""
        return {} if self.gain == 1 else {"gain": self.gain}


class Function(Initializer):
    """What `get` makes of a function: calls it with (shape, dtype=...) and copies what it returns.

    The array that the function returns is there beside the table until it is copied.

    Args:
        function: callable(shape, dtype=...) that returns an array of the shape.

    Example:
        >>> def halves(shape, dtype=None):
        ...     return np.full(shape, 0.5, dtype)
        >>> fastembed.initializers.get(halves)((1, 3))
        array([[0.5, 0.5, 0.5]], dtype=float32)
    """

    row_wise = False

    def __init__(self, function):
        self.stands_for = function

    def __call__(self, shape, dtype=None):
        """Returns what the function returns."""
        return self.stands_for(shape, dtype="float32" if dtype is None else dtype)

    def get_config(self):
        """Returns the config of an object that has one; a function has none, and is written by its registered name."""
        if hasattr(self.stands_for, "get_config"):
            return self.stands_for.get_config()
        raise TypeError(f"a function has no config; `serialize` writes its registered name. Received: {self!r}")

    def __repr__(self):
        return f"{type(self).__name__}({getattr(self.stands_for, '__qualname__', self.stands_for)})"


class STFT(Initializer):
    """Keras's kernel of a short-time Fourier transform: known by name, and refused, as no table has its shape."""

    def __init__(self, *args, **kwargs):
        raise ValueError(
            "`STFT` makes kernels of three dimensions (frames, 1, frequencies), and a table has two. Received: STFT as "
            "an initializer"
        )
