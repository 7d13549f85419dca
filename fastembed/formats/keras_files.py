"""The Embedding in files of Keras: `.keras`, `.weights.h5`, and HDF5 files of Keras 2.

May import: hdf5, keras_codes, matrix, layers, and what stands below them. Do not break: a file is data. Of a config in
it only the keys that are listed here are used, and no name in it is imported, evaluated or opened.
"""

import contextlib
import datetime
import io
import json
import os
import re
import shutil
import struct
import tempfile
import zipfile
import zlib
from typing import NamedTuple

from fastembed import dtypes, files, serialization
from fastembed._version import __version__
from fastembed.formats import hdf5, keras_codes, matrix
from fastembed.formats.matrix import Matrix
from fastembed.layers import Embedding

_WEIGHTS = "model.weights.h5"  # in a .keras file
_LARGEST_CONFIG = 64 << 20
_KEYS = {
    "name",
    "trainable",
    "dtype",
    "input_dim",
    "output_dim",
    "embeddings_initializer",
    "embeddings_regularizer",
    "activity_regularizer",
    "embeddings_constraint",
    "mask_zero",
    "input_length",
    "batch_input_shape",
}
_WITHOUT_MEANING = {"dynamic", "autocast"}  # how the layer was run
_LORA = {"lora_rank", "lora_alpha"}  # of a stored table that mostly has A B in it
_READ_ONLY = {"quantization_config"}  # unknown to Keras before 3.13
_KERAS2_ONLY = {"input_length", "batch_input_shape"}


class _Found(NamedTuple):
    """An Embedding of a file: the layer's name, its dataset (None: there is none), its config (None: weights alone)."""

    name: str
    dataset: str | None
    config: dict | None

    def __str__(self):
        return f"{self.name!r} at {self.dataset}"


# ---- reading ---------------------------------------------------------------------------------------------------------


def load(path, name, target):
    """Reads an Embedding; see `fastembed.formats.load`."""
    with _opened(path) as (weights, alone, config):
        return _read(weights, _choose(*_candidates(weights, alone, config), alone, name, path), path, target)


def find(path, format):
    """The Embeddings of a file."""
    with _opened(path) as (weights, alone, config):
        found = [each for each in _candidates(weights, alone, config)[0] if each.dataset is not None]
        return [_matrix(path, each, weights[each.dataset]) for each in found]


def _matrix(path, found, data):
    """What `find` says of an Embedding."""

    def blocks():
        with _opened(path) as (weights, *_):
            data = weights[found.dataset]
            for part in hdf5.blocks(data, data.shape[1] * data.dtype.itemsize):
                yield data[part]

    return Matrix(found.dataset, data.shape, hdf5.dtype_name(data), blocks, found.name)


@contextlib.contextmanager
def _opened(path):
    """The weights of a file, their matrices (see `hdf5.matrices`), and its config (None: it has none)."""
    with open(path, "rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
    if not zipped:
        with hdf5.opened(path, path) as weights:
            alone = hdf5.matrices(weights, path, path)
            config = hdf5.text(weights.attrs, "model_config")
            yield weights, alone, config and _json(config, path)
        return
    try:
        with zipfile.ZipFile(path) as archive, _weights(archive, path) as file, hdf5.opened(file, path) as weights:
            alone = hdf5.matrices(weights, file, path)
            yield weights, alone, _json(_small(archive, "config.json", path), path)
    except (zipfile.BadZipFile, zlib.error, EOFError, struct.error, RuntimeError, NotImplementedError) as error:
        raise ValueError(f"`path` must be a whole .keras file. Received: path={path!r}: {error}") from error


def _candidates(weights, alone, config):
    """The Embeddings of a file, and all of its matrices."""
    unnamed = [_Found(*_layer_name(weights, dataset), None) for dataset in alone]
    found = [_match(*embedding, unnamed) for embedding in _embeddings(config)]
    found = list(
        {each.dataset or each.name: each for each in found}.values()
    )  # a shared layer is in several places of a config
    if not found:
        found = [each for each in unnamed if _is_embedding(weights, each.dataset, alone)]
    return found, unnamed


def _choose(found, unnamed, alone, name, path):
    """The Embedding of this name, or the only one."""
    chosen = found
    if name is not None:  # perhaps a layer of another class, whose only weight is a matrix
        exact = [each for each in unnamed if each.dataset == name.strip("/")]
        chosen = _named(found, name) or _named([each for each in unnamed if alone[each.dataset]], name) or exact
    if len(chosen) != 1:
        rule = "`path` must hold an Embedding" if not found else "`name` must be that of one Embedding of the file"
        some = [str(each) for each in found or unnamed]
        held = ", ".join(some[:20] + ["..."] * (len(some) > 20)) or "no matrix"
        raise ValueError(f"{rule}. Received: name={name!r}, path={path!r}, which has {held}")
    return chosen[0]


def _read(weights, found, path, target):
    """The layer, with its table."""
    if found.dataset is None:
        raise ValueError(f"`path` must hold the weights of {found.name!r}. Received: path={path!r}, which has none")
    lora = _lora(weights, found, path)
    layer = None if found.config is None else _layer(found.config, path, lora)
    if hdf5.dtype_name(weights[found.dataset]) == "int8":
        layer = _read_codes(weights, found, layer, lora, path, target)
    else:
        data, dtype = hdf5.dataset(weights, found.dataset, path, dtypes.PLAIN)
        layer = layer or Embedding(*data.shape, name=found.name, dtype=dtype)
        wider = (layer.dtype, dtype) == ("bfloat16", "float32")  # as `save` writes it for Keras 2
        if data.shape != (layer.input_dim, layer.output_dim) or (dtype != layer.dtype and not wider):
            raise ValueError(
                f"`path` must hold {layer.dtype} of shape {(layer.input_dim, layer.output_dim)} for {found.name!r}, as "
                f"its config says. Received: path={path!r}: {found.dataset!r} is {dtype} of shape {data.shape}"
            )
        layer = _converted(layer, target)
        layer.adopt(target.table(data.shape, layer.dtype, lambda table: hdf5.read(data, table, target.progress)))
    for data, table in zip(lora, layer.weights[1:], strict=True):
        hdf5.read(data, table)
    return layer


def _read_codes(weights, found, layer, lora, path, target):
    """As _read, of a quantised layer. With several scales for a row, as no table here has, it becomes a plain one."""
    codes = keras_codes.Codes(weights, found.dataset, path, layer)
    config = found.config
    if layer is None:
        sizes = {"input_dim": codes.rows, "output_dim": codes.dim}
        config = {**sizes, "name": found.name, "dtype": dtypes.quantised("float32", codes.mode, codes.dim)}
        layer = _layer(config, path)
    policy = dtypes.policy(layer.dtype_policy)
    if codes.groups > 1:
        plain = {"dtype": dtypes.source(policy.name), "quantization_config": None}
        layer = _layer({**config, **plain}, path, lora)
    if target.dtype not in (None, layer.dtype):
        raise ValueError(f"`dtype` must be None or {layer.dtype!r} for this table. Received: dtype={target.dtype!r}")
    layer.path = target.path
    shape = codes.rows, codes.dim
    layer.adopt(target.table(shape, layer.dtype, lambda table: codes.read(table, policy.compute)))
    return layer


def _converted(layer, target):
    """The layer, not built, of the dtype that was asked for."""
    if target.dtype not in (None, layer.dtype):
        layer = Embedding.from_config({**layer.get_config(), "dtype": target.policy(layer.dtype, layer.output_dim)})
    layer.path = target.path
    return layer


def _lora(weights, found, path):
    """The datasets A and B, where they are not merged: in files of Keras 3 that have the layout of Keras 2."""
    folder, _, name = found.dataset.rpartition("/")
    place = f"{folder}/lora_embeddings_"
    if name.isdecimal() or f"{place}a" not in weights:
        return []
    if found.config is None:
        raise ValueError(f"`path` must say the `lora_alpha` of its LoRA. Received: path={path!r}, with {place}a")
    rows, rank, dim = (found.config.get(key) for key in ("input_dim", "lora_rank", "output_dim"))
    shapes = {"a": (rows, rank), "b": (rank, dim)}
    return [hdf5.dataset(weights, place + each, path, ["float32"], shape)[0] for each, shape in shapes.items()]


def _layer(config, path, lora=()):
    """An Embedding, without its table, from its config in a file of either Keras; with LoRA that is not merged."""
    if unknown := sorted(set(config) - _KEYS - _READ_ONLY - _WITHOUT_MEANING - _LORA):
        raise ValueError(f"`path` must hold the config of a Keras Embedding. Received: path={path!r}, with {unknown}")
    keys = _KEYS | _READ_ONLY | (_LORA if lora else set())
    try:
        return Embedding.from_config({key: value for key, value in config.items() if key in keys})
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"`path` must hold an Embedding of this version. Received: path={path!r}: {error}") from error


def _embeddings(config):
    """Yields of every keras Embedding in a model's config: names from the model down, path of its weights, config."""
    todo = [(config, (), "")]
    for value, names, path in todo:  # grows
        if isinstance(value, list):
            used = {}
            for child in value:
                if _is_envelope(child):  # a file's path counts the classes of a list, as Keras's saving_lib does
                    snake = serialization.snake_case(child["class_name"])
                    number = used[snake] = used.get(snake, -1) + 1
                    todo.append((child, names, f"{path}/{snake}_{number}" if number else f"{path}/{snake}"))
                elif isinstance(child, (dict, list)):
                    todo.append((child, names, path))
            continue
        if _is_envelope(value):
            inner = value["config"]
            own = inner.get("name") if isinstance(inner, dict) else None
            names = (*names, own if isinstance(own, str) else "")
            if value["class_name"] == "Embedding" and str(value.get("module", "keras")).split(".")[0] == "keras":
                yield names, path, inner if isinstance(inner, dict) else {}
                continue
            if isinstance(inner, list):  # a Sequential before 2.2
                inner = {"layers": inner}
            value = inner
        if isinstance(value, dict):
            todo += [(child, names, f"{path}/{key}") for key, child in value.items() if isinstance(child, (dict, list))]


def _is_envelope(value):
    return isinstance(value, dict) and isinstance(value.get("class_name"), str) and "config" in value


def _match(names, path, config, unnamed):
    """The Embedding of a config with its dataset: where Keras's rules put it, else the only one of its name."""
    name = names[-1]
    # Keras 3, and 2.12 to 2.15 in .keras files.
    places = [f"{path[1:].replace('layers', each)}/vars/0" for each in ("layers", "_layer_checkpoint_dependencies")]
    found = [each for each in unnamed if each.dataset in places and each.name in (name, path.rpartition("/")[2])]
    if not found and len(names) > 1:  # Keras 2: in the group of the layer of the model that it is, or is in
        group = f"{names[1]}/"
        found = [each for each in unnamed if _short(each.dataset).startswith(group) and _is_keras2(each.dataset)]
        found = [each for each in found if each.name == name] or found
    found = found or [each for each in unnamed if each.name == name]
    return _Found(name, found[0].dataset if len(found) == 1 else None, config)


def _layer_name(weights, dataset):
    """(name of the layer that has a dataset, dataset)."""
    group = dataset.rpartition("/")[0]
    if group.endswith("/vars"):
        named = hdf5.text(weights[group].attrs, "name")  # since 3.6
        return named or group.split("/")[-2], dataset
    return group.rpartition("/")[2], dataset


def _is_keras2(dataset):
    return dataset.rpartition("/")[2] in ("embeddings", "embeddings:0")


def _is_embedding(weights, dataset, alone):
    """Whether a dataset is an Embedding's, by its place. A quantised one has scales beside it."""
    by_place = re.fullmatch(r"(.*/)?embedding(_\d+)?/vars/0", dataset)
    return _is_keras2(dataset) or bool(by_place and (alone[dataset] or weights[dataset].dtype.kind in "iu"))


def _short(dataset):
    return dataset.removeprefix("model_weights/")


def _named(found, name):
    """Those that are called so, else those that are there."""
    place = name.strip("/").removeprefix("model_weights/") + "/"
    return [each for each in found if each.name == name] or [
        each for each in found if each.dataset and f"{_short(each.dataset)}/".startswith(place)
    ]


def _json(text, path):
    """The value of JSON."""
    if len(text) > _LARGEST_CONFIG:
        raise ValueError(f"`path` must hold a config of at most {_LARGEST_CONFIG} bytes. Received: {len(text)}")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"`path` must hold a config in JSON. Received: path={path!r}: {error}") from error


def _member(archive, name, path):
    if name not in archive.namelist():
        raise ValueError(f"`path` must hold {name!r}. Received: path={path!r}, which has not")
    return archive.getinfo(name)


def _small(archive, name, path):
    """A member's bytes."""
    return matrix.member_bytes(archive, _member(archive, name, path), _LARGEST_CONFIG, "config")


class _Window(io.RawIOBase):
    """Some bytes of an open file as a file."""

    def __init__(self, file, start, size):
        self._file, self._start, self._size, self._position = file, start, size, 0

    def readable(self):
        return True

    def seekable(self):
        return True

    def seek(self, offset, whence=os.SEEK_SET):
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        return self._position

    def readinto(self, buffer):
        self._file.seek(self._start + self._position)
        count = self._file.readinto(memoryview(buffer).cast("B")[: max(0, self._size - self._position)])
        self._position += count
        return count


@contextlib.contextmanager
def _weights(archive, path):
    """The HDF5 file in a .keras file, open: a stored one where it is, a compressed one from a temporary file beside."""
    member = _member(archive, _WEIGHTS, path)
    stored = member.compress_type == zipfile.ZIP_STORED
    if member.file_size > member.compress_size * (1 if stored else matrix.EXPANSION):
        raise ValueError(
            f"`path` must be a whole file. Received: path={path!r}, whose {_WEIGHTS} has {member.file_size} bytes, of "
            f"which {member.compress_size} are there"
        )
    if not stored:
        with tempfile.TemporaryFile(dir=os.path.dirname(os.path.abspath(path))) as file:
            with archive.open(member) as compressed:
                shutil.copyfileobj(compressed, file, 1 << 20)
            yield file
        return
    with archive.open(member) as content:  # compares its checksum
        while content.read(1 << 20):
            pass
    yield _Window(archive.fp, matrix.member_start(archive, member), member.file_size)


# ---- writing ---------------------------------------------------------------------------------------------------------


def save(layer, path, format, vocabulary, progress):
    """Writes a layer; see `fastembed.formats.save`."""
    if format != "keras_weights":
        if type(layer) is not Embedding:
            raise ValueError(
                f"`layer` must be an Embedding: Keras has no class {type(layer).__name__} (a .weights.h5 file can "
                f"hold its table). Received: {layer!r}"
            )
        if "/" in layer.name or layer.name in ("", "."):
            raise ValueError(f"`layer.name` must be one that Keras takes. Received: name={layer.name!r}")
    hdf5.h5py()  # before anything is written
    keras2 = format == "keras2_h5"
    fill, storage = _fill_keras2 if keras2 else _fill_weights, dtypes.policy(_policy(layer)).storage
    if keras2 and storage == "bfloat16":  # which Keras, of any version, writes but does not read
        storage = "float32"
    with files.new_file(path) as beside, layer.embeddings.lock:
        rows, folder = matrix.pieces(layer, storage, progress), os.path.dirname(beside)
        content = hdf5.pieces(lambda file: fill(file, layer, storage), rows, folder)
        if format != "keras":
            with open(beside, "xb") as file:
                file.writelines(content)
            return
        with zipfile.ZipFile(beside, "x") as archive:
            about = {
                "keras_version": "3.0.0",
                "date_saved": datetime.datetime.now().strftime("%Y-%m-%d@%H:%M:%S"),
                "saved_by": f"fastembed-cython {__version__}",
            }
            archive.writestr("metadata.json", json.dumps(about))
            archive.writestr("config.json", json.dumps(_model(layer)))
            with archive.open(_WEIGHTS, "w", force_zip64=True) as file:
                for piece in content:
                    file.write(piece)


def _policy(layer):
    """The dtype policy that a file says. A quantised table is written as float32: Keras's has no offsets."""
    name = layer.dtype_policy
    plain = dtypes.source(name)
    return plain if name == plain or dtypes.policy(plain).storage == "float32" else "float32"


def _fill_weights(file, layer, storage):
    """The layout of Keras 3, for a Sequential of one Embedding."""
    file.create_group("vars").attrs["name"] = "sequential"
    group = file.create_group("layers/embedding/vars")
    group.attrs["name"] = layer.name
    return hdf5.new_matrix(group, "0", (layer.input_dim, layer.output_dim), storage)


def _fill_keras2(file, layer, storage):
    """The layout of Keras 2, for a whole model."""
    weights = file.create_group("model_weights")
    group = weights.create_group(layer.name)
    for each in (file, weights):
        each.attrs["backend"], each.attrs["keras_version"] = "tensorflow", "2.9.0"
    file.attrs["model_config"] = json.dumps(_model2(layer))
    weights.attrs["layer_names"] = [layer.name]
    weights.create_group("top_level_model_weights").attrs["weight_names"] = []
    group.attrs["weight_names"] = [f"{layer.name}/embeddings:0"]
    return hdf5.new_matrix(group, f"{layer.name}/embeddings:0", (layer.input_dim, layer.output_dim), storage)


def _input(layer):
    """The config of the model's input. Keras's own default is float32, which has not all ids."""
    dtype = "int32" if layer.input_dim <= 1 << 31 else "int64"
    return {"dtype": dtype, "sparse": False, "ragged": False, "name": f"{layer.name}_input"}


def _model(layer):
    """The config of a Sequential as Keras 3 writes it."""

    def envelope(module, name, config, **more):
        return {"module": module, "class_name": name, "config": config, "registered_name": None, **more}

    shape = [None, None]
    config = {key: value for key, value in layer.get_config().items() if key in _KEYS - _KERAS2_ONLY}
    config["dtype"] = dtypes.serialized(_policy(layer))
    layers = [
        envelope("keras.layers", "InputLayer", {"batch_shape": shape, **_input(layer)}),
        envelope("keras.layers", "Embedding", config, build_config={"input_shape": shape}),
    ]
    model = {"name": "sequential", "trainable": True, "layers": layers, "build_input_shape": shape}
    return envelope("keras", "Sequential", model, build_config={"input_shape": shape})


def _model2(layer):
    """The config of a Sequential as Keras 2 writes it."""

    config = {key: value for key, value in layer.get_config(version=2).items() if key in _KEYS}
    # A name is read by both; Keras 2's own form of a mixed policy by Keras 2 alone.
    config["dtype"] = _policy(layer)
    layers = [
        {"class_name": "InputLayer", "config": {"batch_input_shape": [None, None], **_input(layer)}},
        {"class_name": "Embedding", "config": config},
    ]
    return {"class_name": "Sequential", "config": {"name": "sequential", "layers": layers}}
