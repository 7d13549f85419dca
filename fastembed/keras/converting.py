"""Models with Embeddings of Keras become models with ours, and back.

May import: keras.layers. Do not break: the weights of a converted model are those it had.
"""

import keras

from fastembed.keras.layers import Embedding

_THEIRS = ("name", "trainable", "dtype", "input_dim", "output_dim", "mask_zero", "activity_regularizer")
_THEIRS += ("embeddings_initializer", "embeddings_regularizer", "embeddings_constraint")


def convert(model, back=False):
    """Puts our `Embedding` in the place of each `keras.layers.Embedding` of a model, weights included; or back.

    Args:
        model: a Keras model. Of a Sequential or functional one a new model is returned, which shares nothing with it.
            In a subclassed one the layers among its attributes, and in their lists and dicts, are replaced.
        back: True puts `keras.layers.Embedding` in the place of ours.

    Returns:
        the model, to be compiled.

    Raises:
        ValueError: an Embedding that has what the other one has not: LoRA or codes; `padding_idx`.

    Example:
        >>> import keras
        >>> model = keras.Sequential([keras.layers.Embedding(1000, 8), keras.layers.GlobalAveragePooling1D()])
        >>> before = model(np.array([[4, 8, 15]]))
        >>> model = fastembed.keras.convert(model)
        >>> type(model.layers[0]) is fastembed.keras.Embedding
        True
        >>> bool(np.allclose(keras.ops.convert_to_numpy(model(np.array([[4, 8, 15]])) - before), 0))
        True
    """
    if isinstance(model, keras.Sequential) or _is_functional(model):
        return _cloned(model, back)
    for layer in model._flatten_layers():
        for name, value in [*vars(layer).items(), *getattr(layer, "_modules", {}).items()]:  # those of a torch module
            if not name.startswith("_"):
                _replace(layer, name, value, back)
    return model


def _is_functional(model):
    return (type(model) is keras.Model and hasattr(model, "_nodes")) or type(model).__name__ == "Functional"


def _counterpart(layer, back):
    """The layer that takes the place of this one, with its weights; or None: it stays."""
    if type(layer) is not (Embedding if back else keras.layers.Embedding):
        return None
    config = layer.get_config()
    unknown = [key for key in ("padding_idx", "lora_rank", "quantization_config") if config.get(key) is not None]
    if unknown:
        raise ValueError(f"{layer.name} must be an Embedding without {unknown[0]}, to be converted. Received: {config}")
    config = {key: config[key] for key in _THEIRS if key in config}
    new = (keras.layers.Embedding if back else Embedding).from_config(config)
    if layer.built:
        new.build()
        new.set_weights(layer.get_weights())
    return new


def _cloned(model, back):
    """A new Sequential or functional model."""
    pairs = []

    def clone(layer):
        new = _counterpart(layer, back)
        if new is None:
            new = type(layer).from_config(layer.get_config())
            pairs.append((layer, new))
        return new

    new = keras.models.clone_model(model, clone_function=clone, recursive=True)
    for old, cloned in pairs:
        if old.built:
            cloned.set_weights(old.get_weights())
    return new


def _replace(owner, name, value, back):
    """Puts counterparts in the place of what an attribute of a layer holds."""
    if isinstance(value, (list, dict)):
        for key, item in list(value.items() if isinstance(value, dict) else enumerate(value)):
            new = _counterpart(item, back)
            if new is not None:
                _untrack(owner, item)
                value[key] = owner._tracker.track(new)
    else:
        new = _counterpart(value, back)
        if new is not None:
            _untrack(owner, value)
            setattr(owner, name, new)


def _untrack(owner, layer):
    """Keras forgets a layer, and takes another one, though `owner` is built."""
    owner._tracker.unlock()
    owner._tracker.untrack(layer)
