"""Keras config envelopes of both generations, and the classes that a config may name.

May import: nothing of the package. Do not break: a config is data. No name in it is imported or evaluated: classes come
from the package's own, from `register_serializable` and from `custom_objects=` alone.

Keras 3 wraps the config of an object as {"module", "class_name", "config", "registered_name"}, Keras 2 as
{"class_name", "config"}; both are read. `serialize(obj, version=2)` writes the form of 2.9.
"""

import contextlib
import contextvars
import math
import numbers
import re
import types

import numpy as np

MAX_DEPTH = 32  # of a config; Keras's own have 6 at most
_PLAIN = (str, int, float, bool, type(None))
_ARRAYS = ("bool", "float16", "float32", "float64", *(f"{sign}int{n}" for sign in ("", "u") for n in (8, 16, 32, 64)))
_KERAS = ("keras", "tf_keras", "tensorflow")
_known = {}  # by kind ("initializer", ...): ({class name: class}, {alias: class name})
_registered = {}  # by "package>name": what register_serializable was given
_custom_objects = contextvars.ContextVar("custom_objects", default=types.MappingProxyType({}))


def register_serializable(package="Custom", name=None):
    """Makes a class or function of yours known to configs, under "package>name"; a decorator.

    Args:
        package: str, yours.
        name: str, or None for the name of the class or function.

    Returns:
        The decorator, which returns what it is given.

    Raises:
        TypeError: a class without `get_config`.

    Source: keras.saving.register_keras_serializable.

    Example:
        >>> @fastembed.register_serializable("mine")
        ... def halves(shape, dtype=None):
        ...     return np.full(shape, 0.5, dtype)
        >>> layer = fastembed.Embedding(3, 2, embeddings_initializer=halves)
        >>> layer.get_config()["embeddings_initializer"]["config"]
        'mine>halves'
    """

    def register(thing):
        if isinstance(thing, type) and not callable(getattr(thing, "get_config", None)):
            raise TypeError(f"a serializable class must have `get_config`. Received: {thing.__name__} without it")
        _registered[f"{package}>{name or thing.__name__}"] = thing
        return thing

    return register


def snake_case(name):
    """The name of a class as Keras writes it in names of layers and files: EmbeddingBag is embedding_bag."""
    words = re.sub(r"(?<=.)(?=[A-Z][a-z])|(?<=[a-z])(?=[A-Z])", "_", re.sub(r"\W", "", name))
    return words.lower()


def know(kind, classes, aliases=types.MappingProxyType({})):
    """Tells which classes a config of this kind may name, and by which other names."""
    _known[kind] = (classes, aliases)


@contextlib.contextmanager
def scope(custom_objects):
    """`custom_objects` are known inside, those of nested configs too."""
    if custom_objects is None:
        yield
        return
    token = _custom_objects.set({**_custom_objects.get(), **custom_objects})
    try:
        yield
    finally:
        _custom_objects.reset(token)


# ---- values --------------------------------------------------------------------------------------------------------

LARGEST = float(np.finfo(np.float32).max)


def check_number(value, name, least=None, below=None, finite=True):
    """A Python int or float within float32, from any real number or scalar array; the type that was given stays.

    least, below: the bounds, or None. finite: False lets NaN and infinity pass.
    """
    number = value.item() if hasattr(value, "__array__") and np.ndim(value) == 0 else value
    if isinstance(number, numbers.Real) and not isinstance(number, bool):
        within = abs(number) <= LARGEST or (not finite and type(number) is float and not math.isfinite(number))
        if within and (least is None or number >= least) and (below is None or number < below):
            return number if type(number) is int else float(number)
    rule = "a finite number" if finite else "a number"
    rule += ("" if least is None else f" of at least {least}") + ("" if below is None else f" and below {below}")
    raise ValueError(f"`{name}` must be {rule}, within float32. Received: {name}={value!r}")


def check_array(value, name):
    """An array of numbers, from anything that NumPy makes one of."""
    try:
        array = np.asarray(value)
    except (OverflowError, RecursionError, ValueError) as error:
        raise ValueError(f"`{name}` must be an array of numbers. Received: {error}") from error
    if array.dtype.kind not in "fiub":
        raise TypeError(f"`{name}` must be an array of numbers. Received: {array.dtype} of shape {array.shape}")
    return array


# ---- writing -------------------------------------------------------------------------------------------------------


def serialize(obj, version=3):
    """The Keras envelope of a layer, initializer, regularizer, constraint, optimizer or registered function.

    Args:
        obj: the object; None, numbers and strings stay as they are.
        version: 3 for the form of Keras 3, 2 for that of Keras 2.9.

    Returns:
        dict of plain values.

    Raises:
        TypeError: a function that is not registered, or an object without `get_config`.

    Example:
        >>> fastembed.serialization.serialize(fastembed.initializers.Zeros())["class_name"]
        'Zeros'
        >>> fastembed.serialization.serialize(fastembed.initializers.Zeros(), version=2)
        {'class_name': 'Zeros', 'config': {}}
    """
    if version not in (2, 3):
        raise ValueError(f"`version` must be 2 or 3. Received: version={version!r}")
    if isinstance(obj, _PLAIN):
        return obj
    if isinstance(obj, (list, tuple)):
        return type(obj)(serialize(item, version) for item in obj)
    if isinstance(obj, Configurable) and obj.stands_for is not None:
        return serialize(obj.stands_for, version)
    if isinstance(obj, np.generic):
        return obj.item()
    if isinstance(obj, np.ndarray):
        return {"class_name": "__numpy__", "config": {"value": obj.tolist(), "dtype": obj.dtype.name}}
    own = _name_of(obj if _is_function(obj) else type(obj))
    if _is_function(obj):
        if own is None:
            raise TypeError(
                "a function in a config must be registered: @fastembed.register_serializable(). Received: "
                f"{getattr(obj, '__qualname__', obj)!r}"
            )
        if version == 2:
            return own
        return {"module": "builtins", "class_name": "function", "config": own, "registered_name": "function"}
    if not callable(getattr(obj, "get_config", None)):
        raise TypeError(f"an object in a config must have `get_config`. Received: {type(obj).__name__}")
    legacy = version == 2 and getattr(obj, "legacy_config", None)
    config = legacy() if legacy else obj.get_config()
    name = type(obj).__name__
    if version == 2:
        return {"class_name": own or name, "config": config}
    if own is None and type(obj) is known_class(name):
        return {"module": obj.keras_module, "class_name": name, "config": config, "registered_name": None}
    return {"module": None, "class_name": name, "config": config, "registered_name": own or name}


def _is_function(obj):
    return isinstance(obj, (types.FunctionType, types.BuiltinFunctionType))


def _name_of(thing):
    """ "package>name" of a registered class or function, or None."""
    return next((name for name, known in _registered.items() if known is thing), None)


def known_class(name):
    """The class of this package that goes by `name` in configs, or None."""
    return next((classes[name] for classes, _ in _known.values() if name in classes), None)


# ---- reading -------------------------------------------------------------------------------------------------------


def deserialize(config, custom_objects=None):
    """The object of an envelope of either Keras generation.

    Args:
        config: dict with "class_name" and "config"; "registered_name" as Keras 3 writes it. "module" is not looked at.
        custom_objects: dict of further classes and functions by their names, or None.

    Returns:
        The object; None for None.

    Raises:
        TypeError, ValueError: it is no envelope, it names an unknown class, or its values are wrong.

    Example:
        >>> fastembed.serialization.deserialize({"class_name": "RandomUniform", "config": {"maxval": 1.0}})
        RandomUniform(seed=None, minval=-0.05, maxval=1.0)
    """
    check_config(config)
    with scope(custom_objects):
        return _deserialize(config, list(_known))


def check_config(config):
    """Refuses what no Keras config is: too deep (or endless), or with keys that are no strings."""
    level = [config]
    for _ in range(MAX_DEPTH):
        inner = {}  # by id: whatever occurs twice, as in a cycle, is looked at once
        for item in level:
            if isinstance(item, dict) and not all(isinstance(key, str) for key in item):
                raise TypeError("a config must have strings as keys. Received: another key")
            children = item.values() if isinstance(item, dict) else item if isinstance(item, (list, tuple)) else ()
            inner.update((id(child), child) for child in children if isinstance(child, (dict, list, tuple)))
        if not inner:
            return
        level = inner.values()
    raise ValueError(f"a config must be nested at most {MAX_DEPTH} deep. Received: a deeper one")


def arguments_of(config, cls):
    """The arguments in a config of `cls`, as a dict of their own."""
    check_config(config)
    if not isinstance(config, dict):
        raise TypeError(f"{cls.__name__} cannot be made from its config: it must be a dict. Received: {config!r}")
    return dict(config)


def _deserialize(config, kinds):
    """As deserialize, for these kinds of objects."""
    what = kinds[0] if len(kinds) == 1 else "object"
    if config is None:
        return None
    name = config.get("class_name") if isinstance(config, dict) else None
    if not isinstance(name, str):
        raise TypeError(f"a serialized {what} must be a dict with a 'class_name'. Received: {config!r}")
    inner, registered = config.get("config"), config.get("registered_name")
    if name == "__numpy__" and "initializer" in kinds:
        return read_array(inner)
    if name == "function":
        registered = inner
        found = _find(inner, kinds)
    else:
        found = _find(registered, kinds) or _find(name, kinds)
    if found is None:
        raise ValueError(
            f"Unknown {what}: {registered or name!r} (class_name {name!r}). It must be one of {_names(kinds)}, "
            "registered with @fastembed.register_serializable(), or in `custom_objects`"
        )
    if not isinstance(found, type):
        return found
    if not isinstance(inner, (dict, type(None))):
        raise TypeError(f"the config of {name} must be a dict. Received: {inner!r}")
    if hasattr(found, "from_config"):
        return found.from_config(inner or {})
    return found(**(inner or {}))


def read_array(config):
    """The array that the config of a "__numpy__" envelope holds."""
    if not isinstance(config, dict) or config.get("dtype") not in _ARRAYS:
        raise TypeError(f"a serialized array must have a 'value' and a 'dtype' of {_ARRAYS}. Received: {config!r}")
    array = check_array(config.get("value"), "value")
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(config["dtype"])


def _find(name, kinds):
    """What goes by `name`: a custom object, a registered one, a class of these kinds; else None."""
    if not isinstance(name, str):
        return None
    custom = _custom_objects.get()
    if name in custom:
        return custom[name]
    if name in _registered:
        return _registered[name]
    for kind in kinds:
        classes, aliases = _known[kind]
        known = aliases.get(name, name)
        if known in classes:
            return classes[known]
    return None


def _names(kinds):
    return sorted({name for kind in kinds for name in _known[kind][0]})


def get(identifier, kind):
    """An object of `kind` from None, an instance (one of Keras's too), a class, a callable, a name or an envelope."""
    if identifier is None:
        return None
    if isinstance(identifier, (dict, list, tuple)):
        check_config(identifier)
    classes, aliases = _known[kind]
    found = identifier
    if isinstance(identifier, dict) and "class_name" in identifier:
        found = _deserialize(identifier, [kind])
    elif isinstance(identifier, str):
        found = _find(identifier, [kind])
    cls = found if isinstance(found, type) else type(found)
    if cls.__module__.partition(".")[0] in _KERAS and cls.__name__ in classes:
        found = classes[cls.__name__].from_config({} if found is cls else found.get_config())
    elif found is cls and (hasattr(cls, "get_config") or any("__call__" in base.__dict__ for base in cls.__mro__)):
        found = cls()
    if _is_of(found, kind):
        return found
    raise ValueError(
        f"Could not interpret {kind} identifier: {identifier!r}. It must be one of {sorted({*classes, *aliases})}, an "
        "instance, a class or a config"
    )


def _is_of(found, kind):
    """Whether an object can serve as one of `kind`: ours of another kind cannot."""
    if isinstance(found, np.ndarray):
        return kind == "initializer"
    if any(isinstance(found, tuple(classes.values())) for other, (classes, _) in _known.items() if other != kind):
        return False
    return hasattr(found, "apply_gradients" if kind == "optimizer" else "__call__") and not isinstance(found, type)


class Configurable:
    """An object that its config makes again.

    A subclass has `get_config`, whose keys are those of Keras 3, in order, and `legacy_keys`: those of Keras 2.9, where
    they are others.
    """

    keras_module = None
    legacy_keys = None
    stands_for = None  # a function or object of the user's, which is what configs name

    @classmethod
    def from_config(cls, config):
        """Makes the object that `get_config` described."""
        arguments = arguments_of(config, cls)
        try:
            return cls(**arguments)
        except TypeError as error:
            raise TypeError(f"{cls.__name__} cannot be made from its config: {error}. Received: {config!r}") from error

    def get_config(self):
        """Returns the keyword arguments that make this object again, as a dict of plain values."""
        raise NotImplementedError(f"{type(self).__name__} has no get_config")

    def legacy_config(self):
        """Returns `get_config()` in the form of Keras 2.9."""
        config = self.get_config()
        return config if self.legacy_keys is None else {key: config[key] for key in self.legacy_keys}

    def __repr__(self):
        arguments = ", ".join(f"{key}={value!r}" for key, value in self.get_config().items())
        return f"{type(self).__name__}({arguments})"
