"""Keras config envelopes: {"module", "class_name", "config", "registered_name"} around the config of an object.

May import: nothing of the package. Do not break: a config is data. No name in it is ever imported or evaluated.
"""


def serialize(obj):
    """The Keras 3 envelope of an object that has `get_config`; None stays None.

    Example:
        >>> fastembed.serialization.serialize(fastembed.initializers.Zeros())["class_name"]
        'Zeros'
    """
    if obj is None:
        return None
    return {
        "module": obj.keras_module,
        "class_name": type(obj).__name__,
        "config": obj.get_config(),
        "registered_name": None,
    }


def deserialize(config, classes, kind):
    """The object of an envelope of either Keras generation. `classes`: class by name; `kind`: for messages."""
    if not isinstance(config, dict) or not isinstance(config.get("class_name"), str):
        raise TypeError(f"a serialized {kind} must be a dict with a 'class_name'. Received: {config!r}")
    inner = config.get("config") or {}
    name = config["class_name"]
    if name not in classes or not isinstance(inner, dict):
        raise ValueError(f"Unknown {kind}: {name!r}. It must be one of {sorted(classes)}. Received: {config!r}")
    return classes[name].from_config(inner)


def get(identifier, classes, aliases, kind):
    """An object from None, an instance, a class, a name or an envelope."""
    is_object = callable(getattr(identifier, "get_config", None)) and not isinstance(identifier, type)
    if identifier is None or is_object:
        return identifier
    if isinstance(identifier, dict):
        return deserialize(identifier, classes, kind)
    if isinstance(identifier, str):
        name = aliases.get(identifier, identifier)
        if name in classes:
            return classes[name]()
    elif isinstance(identifier, type) and identifier in classes.values():
        return identifier()
    raise ValueError(
        f"Could not interpret {kind} identifier: {identifier!r}. It must be one of {sorted({*classes, *aliases})}, an "
        "instance, a class or a config"
    )


class Configurable:
    """An object that its config makes again."""

    keras_module = None

    @classmethod
    def from_config(cls, config):
        """Makes the object that `get_config` described."""
        try:
            return cls(**config)
        except TypeError as error:
            raise TypeError(f"{cls.__name__} cannot be made from its config: {error}. Received: {config!r}") from error

    def get_config(self):
        """Returns the keyword arguments that make this object again, as a dict of plain values."""
        raise NotImplementedError(f"{type(self).__name__} has no get_config")

    def __repr__(self):
        arguments = ", ".join(f"{key}={value!r}" for key, value in self.get_config().items())
        return f"{type(self).__name__}({arguments})"
