"""Writes keras29_facts.json: what Keras 2.9.3 answers, so that tests can compare where it is not installed.

May import: TensorFlow 2.9.3 and what comes with it; nothing of fastembed. Do not break: each fact came out of running
Keras here, none is typed in, and a second run writes the same file.

To make the file again, in a Python 3.10 (3.11 and later have no TensorFlow 2.9):

    python3.10 -m venv tf29
    tf29/bin/pip install 'tensorflow-cpu==2.9.3' 'keras==2.9.0' 'numpy==1.23.5' 'protobuf<3.20' 'h5py==3.16.0'
    tf29/bin/python tests/make_keras29_facts.py

How to read the file: each section is a list of cases, what was given next to what came out.

- `{"call": "regularizers.L2", "with": {"l2": 0.1}}` stands for the object `tf.keras.regularizers.L2(l2=0.1)`.
- JSON has no tuples: a list for `input_length`, `input_shape` or `batch_input_shape` was given as a tuple.
- The section `patterns` has an array for each shape. A table that a case does not show is the one of (input_dim,
  output_dim); the upstream gradient of `losses` is the one of `upstream_shape`. `matrix` counts in `matrices`.
- Arrays have the shortest decimals that give back the same float32 (or `dtype`): compare after `np.float32`. Numbers in
  a config are Python's own, and its keys are in Keras's order. "nan" and "inf" are strings.
- An error is `{"error": class, "message": the first 120 characters of its first line}`; where Keras puts a line of its
  own before it ("Exception encountered when calling layer ...", "in user code:"), it is the line that says why.
- `changed` is what differs, in a config, from that of the section's first case; its keys have the same order as there.
  The other facts of `layer_configs` are left out where they are as in its first case. An EagerTensor has no `..._type`.
- Steps of `training` start from `training_steps`.
"""

import base64
import json
import math
import os
import re
import tempfile
import traceback
import zlib
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import h5py
import keras.initializers.initializers_v2
import numpy as np
import tensorflow as tf

K = tf.keras
PATTERNS = {}
TUPLES = {"input_length", "input_shape", "batch_input_shape"}
RANDOM = ["RandomUniform", "RandomNormal", "TruncatedNormal", "VarianceScaling", "Orthogonal"]
RANDOM += [name + kind for name in ("Glorot", "He", "Lecun") for kind in ("Uniform", "Normal")]


# ---- from JSON to Keras and back ---------------------------------------------------------------------


def pattern(*shape):
    """Numbers that float16 holds exactly, of both signs, with a zero, in float32; kept for the section `patterns`."""
    numbers = ((np.arange(math.prod(shape)) * 7 % 13 - 6) / 8).astype(np.float32).reshape(shape)
    PATTERNS[tuple(shape)] = numbers
    return numbers.copy()


def call(name, /, **arguments):
    """The JSON form of an object that `make` makes."""
    return {"call": name, "with": arguments}


def make(given):
    """The Keras objects that a JSON value stands for."""
    if isinstance(given, dict) and "call" in given:
        found = K
        for part in given["call"].split("."):
            found = getattr(found, part)
        return found(**make(given["with"]))
    if isinstance(given, dict):
        return {key: tuple(v) if key in TUPLES and isinstance(v, list) else make(v) for key, v in given.items()}
    return given


def plain(value):
    """The JSON form of what came out."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tf.TensorShape):
        return value.as_list()
    if isinstance(value, tf.RaggedTensor):
        return plain((tf.cast(value, "float32") if value.dtype == tf.bfloat16 else value).to_list())
    if isinstance(value, (tf.Tensor, tf.Variable)):
        return plain(np.asarray(value.numpy()))
    if isinstance(value, np.ndarray) and value.dtype == tf.bfloat16.as_numpy_dtype:
        value = value.astype(np.float32)
    if isinstance(value, np.ndarray) and value.dtype in (np.float16, np.float32):
        short = np.array([float(str(number)) for number in value.flat]).reshape(value.shape)
        assert np.array_equal(short.astype(value.dtype), value, equal_nan=True)
        return plain(short.tolist())
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def outcome(function, *arguments):
    """What the function returns, a dict, or the error that Keras raises; an error of this file itself goes on."""
    try:
        found = function(*arguments)
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        if Path(frame.filename).name == Path(__file__).name and frame.name != "make":
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
        line = lines[0]
        if line.startswith("Exception encountered when calling layer"):
            line = lines[1]
        if line == "in user code:":
            start = type(error).__name__ + ": "
            line = next(line for line in lines if line.startswith(start)).removeprefix(start)
        return {"error": type(error).__name__, "message": same_each_time(line)[:120]}
    return plain(found)


def same_each_time(line):
    """The line without addresses, and with sets in order."""
    line = re.sub(r"0x[0-9a-f]+", "0x...", line)
    return re.sub(r"{('[\w]+'(?:, )?)+}", lambda found: "{" + ", ".join(sorted(found[0][1:-1].split(", "))) + "}", line)


def embedding(given, **more):
    """A layer with fresh names."""
    K.backend.clear_session()
    return K.layers.Embedding(**make(given), **more)


def table_of(given):
    return pattern(given["input_dim"], given["output_dim"])


def filled(given):
    """A layer that is built, with `pattern` for its table."""
    layer = embedding(given)
    layer.build((None,))
    layer.set_weights([table_of(given)])
    return layer


def ids_of(values, kind):
    """Ids as a tensor ("int64"), an array ("numpy uint8"), "ragged int32", "sparse int64", or the "python" values."""
    form, _, dtype = kind.rpartition(" ")
    if kind == "python":
        return values
    if form == "ragged":
        return tf.ragged.constant(values, dtype)
    if form == "sparse":
        return tf.sparse.from_dense(tf.constant(values, dtype))
    return np.array(values, dtype) if form == "numpy" else tf.constant(values, dtype)


# ---- configs -----------------------------------------------------------------------------------------


def layer_configs():
    size = {"input_dim": 7, "output_dim": 3}
    seeded = [call("initializers." + name, seed=11) for name in RANDOM[:5]]
    strings = ["uniform", "normal", "zeros", "one", "glorot_uniform", "HeNormal", "GlorotUniformV2", "glorot_normalV2"]
    given = [
        {"name": "words"},
        {"mask_zero": True},
        {"mask_zero": 1},
        {"input_length": 5},
        {"input_length": 0},
        {"input_length": [3, 5]},
        {"input_length": [None, 5]},
        {"input_shape": [4]},
        {"input_shape": []},
        {"input_shape": [4], "input_length": 5},
        {"batch_size": 8},
        {"batch_size": 8, "input_length": 5},
        {"batch_input_shape": [8, 5]},
        {"batch_input_shape": [None, None, 4]},
        {"trainable": False},
        {"dynamic": True},
        {"input_dim": 2, "output_dim": 1, "weights": [[[0.5], [1.0]]]},
        {"autocast": True},
        {"dtype": "float16"},
        {"dtype": "float64"},
        {"dtype": "bfloat16"},
        {"dtype": "mixed_float16"},
        {"dtype": "mixed_bfloat16"},
        {"dtype": call("mixed_precision.Policy", name="mixed_float16")},
        {"dtype": call("mixed_precision.Policy", name="float64")},
        {"dtype": "int32"},
        {"dtype": "int32", "embeddings_initializer": "ones"},
        {"dtype": "no_such"},
        *({"embeddings_initializer": value} for value in [*strings, *seeded]),
        {"embeddings_initializer": None},
        {"embeddings_initializer": call("initializers.Constant", value=2)},
        {"embeddings_initializer": {"class_name": "RandomUniform", "config": {"minval": -1, "maxval": 1}}},
    ]
    for argument in ("embeddings_regularizer", "activity_regularizer"):
        given += [{argument: value} for value in ("l1", "l2", "l1_l2", "L1L2", "orthogonal_regularizer")]
        given += [{argument: call("regularizers.L1", l1=0.3)}, {argument: call("regularizers.L2", l2=0.25)}]
        given += [{argument: call("regularizers.L1L2", l1=0.1)}]
        given += [{argument: call("regularizers.OrthogonalRegularizer", factor=0.1, mode="columns")}]
        given += [{argument: "no_such"}, {argument: 3}]
    given += [
        {"embeddings_constraint": value} for value in ("max_norm", "maxnorm", "MinMaxNorm", "nonneg", "unit_norm")
    ]
    given += [
        {"embeddings_constraint": call("constraints.MaxNorm", max_value=1.5, axis=1)},
        {"embeddings_constraint": call("constraints.MaxNorm", axis=[0, 1])},
        {"embeddings_constraint": call("constraints.MinMaxNorm", min_value=0.5, rate=0.75)},
        {"embeddings_constraint": "no_such"},
        {"embeddings_initializer": "no_such"},
        {"embeddings_initializer": 3},
        {"embeddings_initializer": "uniform", "sparse": True},
        {"no_such": 1},
        *({"input_dim": value} for value in (0, -1, 7.0, 7.5, True, "7", None)),
        *({"output_dim": value} for value in (0, -1, 3.0, True, "3", None)),
    ]

    def case(given):
        layer = embedding(given)
        config, envelope = layer.get_config(), K.layers.serialize(layer)
        assert envelope == {"class_name": "Embedding", "config": config}
        written = {"serialized": envelope}
        if list(config) == list(base):
            written = {"changed": {key: value for key, value in plain(config).items() if value != base[key]}}
        return {
            **written,
            "supports_masking": layer.supports_masking,
            "from_config": outcome(lambda: type(layer).from_config(config).get_config() == config),
            "built": outcome(built, layer),
        }

    def built(layer):
        layer.build((None, 5))
        weight = layer.embeddings
        fact = {"shape": weight.shape, "dtype": weight.dtype.name, "compute_dtype": layer.compute_dtype}
        return {**fact, "trainable": weight.trainable, "name": weight.name}

    base = {}
    first = outcome(case, size)
    base = first["serialized"]["config"]
    cases = [{"given": size, **first}]
    for more in given:
        arguments = {**size, **more}
        fact = outcome(case, arguments)
        cases.append({"given": arguments, **{key: value for key, value in fact.items() if value != first.get(key)}})
    return cases


def layer_from_config():
    """Configs that people have: of other versions, with keys too many or too few."""
    base = K.layers.Embedding(7, 3, name="words").get_config()
    sub = {"class_name": "RandomUniform", "config": {"minval": -0.5, "maxval": 0.5, "seed": 3}}
    keras3 = {"module": "keras.initializers", "class_name": "Zeros", "config": {}, "registered_name": None}
    changes = [
        {},
        {"embeddings_initializer": sub},
        {"embeddings_initializer": {"class_name": "uniform", "config": {}}},
        {"embeddings_initializer": {"class_name": "GlorotUniformV2", "config": {"seed": None}}},
        {"embeddings_initializer": {"class_name": "Zeros"}},
        {"embeddings_initializer": keras3},
        {"embeddings_regularizer": {"class_name": "L1L2", "config": {"l1": 0.0, "l2": 0.1}}},
        {"embeddings_regularizer": {"class_name": "L2", "config": {"l2": 0.1}}},
        {"embeddings_constraint": {"class_name": "MaxNorm", "config": {"max_value": 3, "axis": 1}}},
        {"quantization_config": None},
        {"sparse": False},
        {"registered_name": None},
        {"dtype": {"class_name": "Policy", "config": {"name": "mixed_float16"}}},
        {"dtype": {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "float32"}}},
    ]

    base = plain(base)

    def case(config):
        K.backend.clear_session()
        made = plain(K.layers.Embedding.from_config(config).get_config())
        assert list(made) == list(base)
        return {"changed": {key: value for key, value in made.items() if value != base[key]}}

    facts = [{"change": {}, "changed": {}, "config": base}]
    facts += [{"change": change, **outcome(case, {**base, **change})} for change in changes]
    for gone in base:
        facts.append({"without": gone, **outcome(case, {key: base[key] for key in base if key != gone})})
    return facts


def identifiers(module, good, bad):
    """What `get` makes of each identifier, and how that is serialized."""

    def got(identifier):
        found = module.get(identifier)
        envelope = outcome(module.serialize, found)
        if envelope is not None and "error" in envelope:
            return {"class": type(found).__name__, "serialized": envelope}
        assert found is None or type(found).__name__ == envelope["class_name"]
        return {"serialized": envelope}

    return [{"given": given, **outcome(lambda given=given: got(make(given)))} for given in [*good, *bad]]


def initializer_identifiers():
    names = sorted(keras.initializers.LOCAL.ALL_OBJECTS)
    calls = [call("initializers." + name, seed=7) for name in RANDOM]
    calls += [
        call("initializers.Constant", value=0.1),
        call("initializers.Constant", value=[1, 2.5, 3]),
        call("initializers.Identity", gain=2),
        call("initializers.Orthogonal", gain=0.1, seed=3),
        call("initializers.RandomUniform", minval=-1, maxval=0.1),
        call("initializers.RandomUniform", minval=1, maxval=-1),
        call("initializers.RandomNormal", mean=1, stddev=0.1),
        call("initializers.RandomNormal", stddev=-1),
        call("initializers.TruncatedNormal", mean=1, stddev=0.1),
        call("initializers.RandomUniform", seed=1.5),
        call("initializers.RandomUniform", seed="a"),
        call("initializers.RandomUniform", no_such=1),
        *(call("initializers.VarianceScaling", mode=value) for value in ("fan_in", "fan_out", "fan_avg", "no_such")),
        *(
            call("initializers.VarianceScaling", scale=0.1, distribution=value)
            for value in ("uniform", "normal", "truncated_normal", "untruncated_normal", "Uniform", "no_such")
        ),
        *(call("initializers.VarianceScaling", scale=value) for value in (0, -1, 2)),
    ]
    dicts = [
        {"class_name": "Zeros", "config": {}},
        {"class_name": "zeros", "config": {}},
        {"class_name": "uniform", "config": {"minval": 0}},
        {"class_name": "HeNormalV2", "config": {"seed": 3}},
        {"class_name": "Zeros"},
        {"class_name": "Zeros", "config": {"no_such": 1}},
        {"class_name": "no_such", "config": {}},
        {"config": {}},
        {},
    ]
    bad = ["", "Uniform", "UNIFORM", "no_such", "truncatednormal", "stft", "OrthogonalInitializer", "glorotuniform"]
    bad += ["random_uniformV2", "RandomUniformV3", "identity_initializer", 3, 1.5, True, [1.0]]
    return identifiers(K.initializers, [None, *names, *calls, *dicts], bad)


def module_names(module, base):
    """The strings that `get` of a module takes: its classes and functions that give an object."""
    names = []
    for name in sorted(vars(module)):
        fact = outcome(lambda name=name: {"ok": isinstance(module.get(name), base)})
        if fact.get("ok"):
            names.append(name)
    return names


def regularizer_identifiers():
    good = module_names(K.regularizers, K.regularizers.Regularizer)
    internal = module_names(keras.regularizers, K.regularizers.Regularizer)
    calls = [call("regularizers." + name) for name in ("L1", "L2", "L1L2", "OrthogonalRegularizer")]
    calls += [call("regularizers." + name) for name in ("l1", "l2", "l1_l2", "orthogonal_regularizer")]
    for name in ("L1", "l2"):
        argument = name.lower()
        calls += [call("regularizers." + name, l=0.3), call("regularizers." + name, **{"l": 0.3, argument: 0.2})]
        calls += [call("regularizers." + name, **{argument: value}) for value in (0.1, 0, None, 2, -1.0)]
        calls += [call("regularizers." + name, **{argument: value}) for value in ("a", [1.0], True, math.inf)]
    calls += [
        call("regularizers.L1", no_such=1),
        call("regularizers.L1", l2=0.1),
        call("regularizers.L1L2", l1=0.1),
        call("regularizers.L1L2", l2=0.1),
        call("regularizers.L1L2", l1=None, l2=None),
        call("regularizers.L1L2", l=0.1),
        call("regularizers.l1_l2", l1=0.1),
        call("regularizers.l1_l2", l1=0.1, l2=0.2),
        call("regularizers.OrthogonalRegularizer", factor=0.1),
        call("regularizers.OrthogonalRegularizer", mode="columns"),
        call("regularizers.OrthogonalRegularizer", mode="no_such"),
        call("regularizers.OrthogonalRegularizer", factor="a"),
    ]
    dicts = [
        {"class_name": "L2", "config": {"l2": 0.1}},
        {"class_name": "l2", "config": {"l2": 0.1}},
        {"class_name": "l2", "config": {"l": 0.1}},
        {"class_name": "L1L2", "config": {"l1": 0.1}},
        {"class_name": "L1L2", "config": {}},
        {"class_name": "l1_l2", "config": {"l1": 0.1}},
        {"class_name": "l1_l2", "config": {}},
        {"class_name": "L2"},
        {"class_name": "no_such", "config": {}},
        {},
    ]
    bad = ["", "no_such", "L1_L2", "l1l2", "orthogonal", "Orthogonal", 3, 0.1, True]
    strings = sorted({*good, *internal})
    return identifiers(K.regularizers, [None, *strings, *calls, *dicts], [name for name in bad if name not in strings])


def constraint_identifiers():
    names = module_names(keras.constraints, K.constraints.Constraint)
    classes = ("MaxNorm", "MinMaxNorm", "NonNeg", "UnitNorm", "RadialConstraint")
    calls = [call("constraints." + name) for name in (*classes, "max_norm", "min_max_norm", "non_neg", "unit_norm")]
    calls += [
        call("constraints.MaxNorm", max_value=0.1),
        call("constraints.MaxNorm", max_value=-1, axis=1),
        call("constraints.MaxNorm", axis=[0, 1]),
        call("constraints.MaxNorm", axis=None),
        call("constraints.MaxNorm", no_such=1),
        call("constraints.MinMaxNorm", min_value=0.1, max_value=0.3, rate=0.5, axis=1),
        call("constraints.MinMaxNorm", min_value=2, max_value=1),
        call("constraints.UnitNorm", axis=-1),
    ]
    dicts = [
        {"class_name": "MaxNorm", "config": {"max_value": 3, "axis": 1}},
        {"class_name": "maxnorm", "config": {"max_value": 3}},
        {"class_name": "max_norm", "config": {}},
        {"class_name": "MaxNorm"},
        {"class_name": "no_such", "config": {}},
        {},
    ]
    bad = ["", "no_such", "Maxnorm", "MAXNORM", "minmaxnorm", "min_max", "NonNegative", 3, 0.1, True]
    return identifiers(K.constraints, [None, *names, *calls, *dicts], bad)


# ---- values ------------------------------------------------------------------------------------------


def initializer_values():
    """The initializers that are not random, and those that refuse a shape or dtype."""
    cases = [(name, {}, [3, 2], "float32") for name in ("Zeros", "Ones", "Constant", "Identity")]
    cases += [
        ("Constant", {"value": 0.1}, [2, 2], "float32"),
        ("Constant", {"value": 0.1}, [2, 2], "float16"),
        ("Constant", {"value": 0.1}, [2, 2], "float64"),
        ("Constant", {"value": 2.5}, [2, 2], "int32"),
        ("Constant", {"value": [1, 2]}, [3, 2], "float32"),
        ("Constant", {"value": [1, 2, 3]}, [3, 2], "float32"),
        ("Constant", {"value": [[1, 2], [3, 4], [5, 6]]}, [3, 2], "float32"),
        ("Identity", {"gain": 0.5}, [2, 4], "float32"),
        ("Identity", {}, [3], "float32"),
        ("Identity", {}, [2, 2, 2], "float32"),
        ("Identity", {}, [2, 2], "int32"),
        ("Zeros", {}, [2, 2], "int32"),
        ("Zeros", {}, [2], "bool"),
        ("Ones", {}, [2], "bool"),
        ("Ones", {}, [2], "string"),
        ("Orthogonal", {}, [3], "float32"),
        ("RandomNormal", {}, [2, 2], "int32"),
        ("RandomNormal", {"stddev": 0}, [1, 2], "float32"),
        ("RandomUniform", {"minval": 3, "maxval": 3}, [1, 2], "float32"),
        ("RandomUniform", {"minval": 3, "maxval": 4}, [1, 2], "int32"),
        ("RandomUniform", {"minval": 1, "maxval": -1}, [0, 2], "float32"),
        ("RandomUniform", {}, [2, 2], "bool"),
        ("TruncatedNormal", {}, [2, 2], "int32"),
        ("GlorotUniform", {}, [2, 2], "int32"),
    ]
    facts = []
    for name, arguments, shape, dtype in cases:
        given = call("initializers." + name, **arguments)
        value = outcome(lambda given=given, shape=shape, dtype=dtype: {"value": make(given)(shape, dtype)})
        facts.append({"given": given, "shape": shape, "dtype": dtype, **value})
    return facts


MATRICES = [
    pattern(4, 3).tolist(),
    pattern(2, 4).tolist(),
    [[0.0, 0.0], [3.0, -4.0], [0.25, 0.0]],
    [[0.5, -2.0, 1.5]],
    [[-0.0], [2.0], [-1.0]],
    [[0.0, 0.0], [0.0, 0.0]],
    [["nan", "inf", "-inf"]],
    pattern(2, 2, 2).tolist(),
]


def matrices():
    return MATRICES


def constraint_values():
    with_axis = [
        {"call": f"constraints.{name}", "with": {**arguments, "axis": axis}}
        for name, arguments in [
            ("MaxNorm", {"max_value": 0.5}),
            ("UnitNorm", {}),
            ("MinMaxNorm", {}),
            ("MinMaxNorm", {"min_value": 0.5, "max_value": 1.25, "rate": 0.75}),
        ]
        for axis in (0, 1, [0, 1])
    ]
    given = [(constraint, matrix, "float32") for constraint in with_axis for matrix in range(4)]
    given += [(call("constraints.MaxNorm", axis=axis), 2, "float32") for axis in (0, 1)]
    given += [(call("constraints.NonNeg"), matrix, "float32") for matrix in range(7)]
    others = [call("constraints." + name) for name in ("MaxNorm", "UnitNorm", "MinMaxNorm", "NonNeg")]
    given += [(constraint, 0, dtype) for constraint in others for dtype in ("float16", "float64")]
    given += [(call("constraints.MaxNorm", max_value=-1), 2, "float32")]
    given += [(call("constraints.MaxNorm", axis=None), 1, "float32")]
    given += [(call("constraints.MinMaxNorm", min_value=2, max_value=1), 2, "float32")]
    given += [(call("constraints.MaxNorm", axis=2), 1, "float32")]
    given += [(call("constraints.RadialConstraint"), 1, "float32")]
    facts = []
    for constraint, matrix, dtype in given:
        weight = tf.constant(np.array(MATRICES[matrix], dtype))
        value = outcome(lambda constraint=constraint, weight=weight: {"value": make(constraint)(weight)})
        facts.append({"given": constraint, "matrix": matrix, "dtype": dtype, **value})
    return facts


def regularizer_values():
    given = [
        call("regularizers.L1", l1=0.3),
        call("regularizers.L2"),
        call("regularizers.L1L2"),
        call("regularizers.L1L2", l1=0.3),
        call("regularizers.L1L2", l2=0.1),
        call("regularizers.L1L2", l1=0.3, l2=0.1),
        call("regularizers.l1_l2"),
        call("regularizers.OrthogonalRegularizer"),
        call("regularizers.OrthogonalRegularizer", factor=0.5),
        call("regularizers.OrthogonalRegularizer", factor=0.5, mode="columns"),
    ]

    def case(regularizer, matrix, dtype):
        weight = tf.constant(np.array(MATRICES[matrix], dtype))
        with tf.GradientTape() as tape:
            tape.watch(weight)
            value = make(regularizer)(weight)
        gradient = tape.gradient(value, weight)
        return {"value": value, "value_dtype": value.dtype.name, "gradient": gradient}

    cases = [(regularizer, matrix, "float32") for regularizer in given for matrix in (0, 1, 2, 3)]
    cases += [(regularizer, 1, dtype) for regularizer in given[:2] + given[-2:] for dtype in ("float16", "float64")]
    cases += [(regularizer, 7, "float32") for regularizer in (given[1], given[-1])]
    return [{"given": item[0], "matrix": item[1], "dtype": item[2], **outcome(case, *item)} for item in cases]


def losses():
    """`layer.losses` after a call, and the gradient of their sum and of an upstream loss, sum(output * upstream)."""
    activities = [None, call("regularizers.L2", l2=0.25)]
    weights = [None, call("regularizers.L2", l2=0.125), call("regularizers.L1L2", l1=0.25, l2=0.5)]
    weights += [call("regularizers.OrthogonalRegularizer", factor=0.5)]
    batches = [
        ("int32", [[1, 3], [1, 0]]),
        ("int64", [[1, 3, 1], [4, 4, 4], [0, 2, 1], [3, 3, 0]]),
        ("int32", [2, 2, 0]),
        ("int32", 2),
        ("ragged int64", [[1, 1, 3], [], [4, 1]]),
    ]
    size = {"input_dim": 5, "output_dim": 2}

    def case(given, ids):
        layer = filled(given)
        with tf.GradientTape() as tape:
            out = layer(ids)
            flat = out.flat_values if isinstance(out, tf.RaggedTensor) else out
            upstream = pattern(*flat.shape)
            total = tf.reduce_sum(flat * upstream.astype(flat.dtype.as_numpy_dtype))
            for loss in layer.losses:
                total += tf.cast(loss, total.dtype)
        before = {"losses": plain(layer.losses), "upstream_shape": upstream.shape}
        gradient = tape.gradient(total, layer.embeddings)
        dense = tf.convert_to_tensor(gradient)
        return {**before, "total": total, "gradient_type": type(gradient).__name__, "gradient": dense}

    cases = []
    for activity in activities:
        for weight in weights:
            for kind, ids in batches:
                given = {**size, "activity_regularizer": activity, "embeddings_regularizer": weight}
                given = {key: value for key, value in given.items() if value is not None}
                cases.append((given, kind, ids))
    cases += [({**size, "activity_regularizer": call("regularizers.L1", l1=0.5)}, *batch) for batch in batches]
    both = {"activity_regularizer": activities[1], "embeddings_regularizer": weights[1]}
    cases += [({**size, **both, **more}, *batches[0]) for more in ({"trainable": False}, {"dtype": "mixed_float16"})]
    cases += [({**size, **both, **more}, *batches[0]) for more in ({"dtype": "float64"}, {"mask_zero": True})]
    facts = []
    for given, kind, ids in cases:
        more = outcome(lambda given=given, ids=ids, kind=kind: case(given, ids_of(ids, kind)))
        facts.append({"given": given, "ids": ids, "ids_as": kind, **more})
    return facts


def losses_over_calls():
    """The number of `layer.losses` before the first call, built, and after one and two calls."""
    facts = []
    for activity in (None, "l2"):
        for weight in (None, "l2"):
            given = {"input_dim": 5, "output_dim": 2}
            given.update({"activity_regularizer": activity, "embeddings_regularizer": weight})
            layer = embedding(given)
            counts = [len(layer.losses)]
            layer.build((None,))
            counts.append(len(layer.losses))
            for _ in range(2):
                layer(tf.constant([1, 2]))
                counts.append(len(layer.losses))
            facts.append({"given": given, "losses": counts})
    return facts


def losses_in_models():
    """`losses` after a call of a model with two tables of ones; each loss has a weight of its own."""

    def layer(activity, weight):
        regularizers = {"activity_regularizer": activity, "embeddings_regularizer": weight}
        regularizers = {key: K.regularizers.L1(value) for key, value in regularizers.items()}
        return K.layers.Embedding(5, 2, embeddings_initializer="ones", **regularizers)

    class Subclass(K.Model):
        def __init__(self):
            super().__init__()
            self.one, self.two = layer(1.0, 2.0), layer(4.0, 8.0)

        def call(self, ids):
            return self.one(ids), self.two(ids)

    K.backend.clear_session()
    ids, given = tf.constant([[1, 2, 2], [0, 1, 4]]), K.Input((3,), dtype="int32")
    functional = K.Model(given, [layer(1.0, 2.0)(given), layer(4.0, 8.0)(given)])
    sequential = K.Sequential([given, layer(1.0, 2.0), K.layers.Flatten(), layer(4.0, 8.0)])
    facts = []
    for model in (functional, sequential, Subclass()):
        model(ids)
        facts.append({"model": type(model).__name__, "ids": plain(ids), "losses": plain(model.losses)})
    alone = layer(1.0, 2.0)
    in_graph = tf.function(lambda ids: (alone(ids), alone.losses)[1])(ids)
    return [*facts, {"model": "a layer in tf.function", "ids": plain(ids), "losses": plain(in_graph)}]


def calls():
    """Outputs and masks of a layer with mask_zero."""
    ids = [
        ("int32", [[1, 0], [4, 1]]),
        *((kind, [1, 0, 4]) for kind in ("int64", "int8", "uint8", "int16", "uint16", "uint32", "uint64")),
        *((kind, [1, 0, 4]) for kind in ("float16", "float32", "float64", "numpy int64", "numpy float64")),
        ("bool", [True, False]),
        ("numpy bool", [True, False]),
        ("float32", [0.0, 0.5, 0.99, 1.99, -0.5, 4.9]),
        ("float64", [0.0, -0.0, 0.5, 4.9]),
        ("float32", [5.0]),
        ("float32", [-1.0]),
        ("int32", 3),
        ("int64", 0),
        ("numpy int64", 3),
        ("int32", []),
        ("int32", [[], []]),
        ("int64", [[[1, 0], [2, 3]], [[0, 0], [4, 4]]]),
        ("ragged int32", [[1, 0], [], [4]]),
        ("ragged int64", [[1, 0], [], [4]]),
        ("ragged uint8", [[1, 0], [], [4]]),
        ("ragged float32", [[1.5, 0.5], [], [4.0]]),
        ("ragged int64", [[[1, 2], []], [[0]], []]),
        ("ragged int64", []),
        ("ragged int64", [[1], [5]]),
        ("ragged int64", [[1], [-1]]),
        ("python", 3),
        ("python", 1.5),
        ("python", True),
        ("python", [1, 0, 2]),
        ("python", [[1, 0], [2, 3]]),
        ("python", []),
        ("python", None),
        ("python", "a"),
        ("sparse int64", [[1, 0], [0, 2]]),
        ("string", ["a"]),
        ("complex64", [1.0]),
        *((kind, [1, value]) for kind in ("int32", "int64") for value in (5, -1)),
        ("int32", [[0, 1], [2, 7]]),
        ("uint8", [255]),
        ("int8", [-1]),
        ("int64", [2**32 + 1]),
        ("int64", [-(2**63)]),
        ("uint32", [2**32 - 1]),
        ("uint64", [2**32 + 1]),
    ]

    def case(given, ids):
        layer = filled(given)
        out = layer(ids)
        fact = {"output": out, "output_dtype": out.dtype.name, "output_shape": out.shape}
        if isinstance(out, tf.RaggedTensor):
            fact["output_type"] = "RaggedTensor"
            fact["splits"] = out.nested_row_splits
            fact["splits_dtype"] = out.row_splits.dtype.name
        return {**fact, "mask_attached": hasattr(out, "_keras_mask")}

    def mask(given, ids):
        found = filled(given).compute_mask(ids)
        if found is None:
            return {"mask": None}
        kind = {} if type(found).__name__ == "EagerTensor" else {"mask_type": type(found).__name__}
        return {"mask": found, **kind, "mask_dtype": found.dtype.name}

    facts = []
    base = {"input_dim": 5, "output_dim": 2, "mask_zero": True}
    cases = [(base, kind, values) for kind, values in ids]
    ragged = next(case for case in ids if case[0] == "ragged int64")
    others = [("bool", [True, False]), ("numpy bool", [[True]]), ("python", True), ("int32", [0, -1]), ids[0], ragged]
    cases += [({**base, "mask_zero": False}, kind, values) for kind, values in others]
    for dtype in ("float16", "float64", "bfloat16", "mixed_float16", "mixed_bfloat16"):
        cases += [({**base, "dtype": dtype}, kind, values) for kind, values in (ids[0], ragged)]
    cases += [({**base, "input_length": 3}, *ids[0]), ({**base, "input_shape": [3]}, *ids[0])]
    cases += [({**base, "batch_input_shape": [3, 3]}, *ids[0]), ({**base, "dynamic": True}, *ids[0])]
    for given, kind, values in cases:
        fact = {"given": given, "ids": values, "ids_as": kind}
        made = ids_of(values, kind)
        fact["call"] = outcome(case, given, made)
        fact["compute_mask"] = outcome(mask, given, made)
        facts.append(fact)
    return facts


def given_weights():
    """When `weights=` reaches the table, and what it refuses."""
    matrix = pattern(3, 2).tolist()
    values = [[matrix], [pattern(2, 3).tolist()], matrix, [matrix, matrix], []]

    def case(weights, how):
        layer = embedding({"input_dim": 3, "output_dim": 2, "embeddings_initializer": "ones"}, weights=weights)
        if how == "build":
            layer.build((None,))
        else:
            layer(tf.constant([0, 1]))
        return {"table": layer.get_weights()[0]}

    facts = []
    for weights in values:
        for how in ("build", "call"):
            arrays = [np.array(item, np.float32) for item in weights]
            facts.append({"weights": weights, "then": how, **outcome(case, arrays, how)})
    return facts


def output_shapes():
    cases = [
        (None, [[], [None], [2], [2, 5], [None, None], [2, None], [2, 3, 5]]),
        (5, [[2, 5], [None, 5], [2, None], [None, None], [2, 4], [2], [2, 3, 5], []]),
        (0, [[2, 0], [2, 5]]),
        ([5], [[2, 5], [2, 4]]),
        ([3, 5], [[2, 3, 5], [2, None, 5], [None, None, None], [2, 3, 4], [2, 5], [2, 3, 5, 1]]),
        ([None, 5], [[2, 3, 5], [2, None, 5], [2, 3, None], [2, 3, 4]]),
        ([None], [[2, 7], [2, None]]),
    ]

    def case(given, shape):
        return {"output_shape": embedding(given).compute_output_shape(shape)}

    facts = []
    for length, shapes in cases:
        given = {"input_dim": 5, "output_dim": 2, "input_length": length}
        for shape in shapes:
            facts.append({"given": given, "input_shape": shape, **outcome(case, given, tuple(shape))})
    return facts


def symbolic_shapes():
    """Shapes of the output for a `keras.Input`, dense and ragged."""

    def case(given, shape, ragged):
        out = embedding(given)(K.Input(tuple(shape), ragged=ragged, dtype="int32"))
        return {"output_shape": out.shape, "output_dtype": out.dtype.name, "mask_attached": hasattr(out, "_keras_mask")}

    facts = []
    for length in (None, 5):
        for shape in ([], [5], [None], [3, 5]):
            for ragged in (False, True):
                given = {"input_dim": 5, "output_dim": 2, "input_length": length, "mask_zero": True}
                more = outcome(case, given, shape, ragged)
                facts.append({"given": given, "shape": shape, "ragged": ragged, **more})
    return facts


# ---- names -------------------------------------------------------------------------------------------


def names():
    """Names of layers in the order in which they are made; a pair is [class, name given]."""

    def kind(name):
        return K.layers.Embedding if name == "Embedding" else type(name, (K.layers.Embedding,), {})

    cases = [
        [["Embedding", None]] * 3,
        [["Embedding", None], ["WordTable", None], ["WordTable", None], ["Embedding", None]],
        [["Embedding", "embedding"], ["Embedding", None], ["Embedding", None]],
        [["Embedding", None], ["Embedding", "embedding_1"], ["Embedding", None]],
        [["Embedding", "words"], ["Embedding", "words"]],
        [["MyHTTPTable", None], ["Table2D", None], ["table", None], ["ABC", None], ["_Private", None]],
        [["Embedding", "a b"], ["Embedding", "a/b"], ["Embedding", "Ä"], ["Embedding", ""]],
        [["Embedding", 3]],
    ]

    def case(made):
        K.backend.clear_session()
        layers = [kind(cls)(3, 2, name=name) for cls, name in made]
        fact = {"names": [layer.name for layer in layers]}
        for layer in layers:
            layer(tf.constant([0]))
        fact["weights"] = [layer.weights[0].name for layer in layers]
        fact["class_names"] = [K.layers.serialize(layer)["class_name"] for layer in layers]
        return fact

    return [{"made": made, **outcome(case, made)} for made in cases]


def names_in_models():
    K.backend.clear_session()
    models = [K.Sequential([K.layers.Embedding(3, 2)]) for _ in range(2)]
    facts = [{"models": [[model.name, model.layers[0].name] for model in models]}]
    twice = outcome(lambda: K.Sequential([K.layers.Embedding(3, 2, name="a"), K.layers.Embedding(3, 2, name="a")]))
    return [*facts, {"same_name_in_a_model": twice}]


def registered():
    """Envelopes of classes that are registered, and of those that are not."""

    @K.utils.register_keras_serializable(package="shop", name="Clicks")
    class Registered(K.layers.Embedding):
        pass

    @K.utils.register_keras_serializable()
    class NoPackage(K.layers.Embedding):
        pass

    class NotRegistered(K.layers.Embedding):
        pass

    facts = []
    for kind in (Registered, NoPackage, NotRegistered):
        K.backend.clear_session()
        envelope = K.layers.serialize(kind(3, 2))
        back = outcome(lambda envelope=envelope: {"class": type(K.layers.deserialize(envelope)).__name__})
        facts.append({"class": kind.__name__, "serialized": plain(envelope), "deserialized": back})
    return facts


# ---- optimizers --------------------------------------------------------------------------------------

DECAY = call("optimizers.schedules.ExponentialDecay", initial_learning_rate=0.5, decay_steps=2, decay_rate=0.25)
STAIRS = call(DECAY["call"], **{**DECAY["with"], "staircase": True})
OPTIMIZERS = [
    call("optimizers.SGD"),
    call("optimizers.SGD", learning_rate=0.5),
    call("optimizers.SGD", learning_rate=0.1, name="mine"),
    call("optimizers.SGD", learning_rate=0.5, momentum=0.75),
    call("optimizers.SGD", learning_rate=0.5, momentum=0.75, nesterov=True),
    call("optimizers.SGD", learning_rate=DECAY),
    call("optimizers.SGD", learning_rate=STAIRS),
    call("optimizers.SGD", learning_rate=0.5, decay=0.25),
    call("optimizers.SGD", learning_rate=0.5, clipvalue=0.25),
    call("optimizers.SGD", learning_rate=0.5, clipnorm=0.5),
    call("optimizers.SGD", learning_rate=0.5, global_clipnorm=0.5),
    call("optimizers.SGD", lr=0.5),
    call("optimizers.Adagrad"),
    call("optimizers.Adagrad", learning_rate=0.5),
    call("optimizers.Adagrad", learning_rate=0.5, initial_accumulator_value=0.0, epsilon=0.001),
    call("optimizers.Adagrad", learning_rate=DECAY),
    call("optimizers.Adam"),
    call("optimizers.Adam", learning_rate=0.5),
    call("optimizers.Adam", learning_rate=0.5, beta_1=0.5, beta_2=0.75, epsilon=0.001),
    call("optimizers.Adam", learning_rate=0.5, epsilon=None),
    call("optimizers.Adam", learning_rate=0.5, amsgrad=True),
    call("optimizers.Adam", learning_rate=DECAY),
]


def optimizer_configs():
    def case(given):
        optimizer = make(given)
        envelope = K.optimizers.serialize(optimizer)
        assert envelope["config"] == optimizer.get_config()
        return {"serialized": envelope}

    bad = [
        call("optimizers.SGD", learning_rate=-0.5),
        call("optimizers.SGD", learning_rate="a"),
        call("optimizers.SGD", learning_rate=None),
        call("optimizers.SGD", momentum=-0.5),
        call("optimizers.SGD", momentum=1.5),
        call("optimizers.SGD", decay=-0.5),
        call("optimizers.SGD", clipnorm=-0.5),
        call("optimizers.SGD", clipvalue=0.5, clipnorm=0.5),
        call("optimizers.SGD", clipnorm=0.5, global_clipnorm=0.5),
        call("optimizers.SGD", no_such=1),
        call("optimizers.Adagrad", initial_accumulator_value=-0.5),
        call("optimizers.Adagrad", epsilon=None),
        call("optimizers.Adam", beta_1=-0.5),
        call("optimizers.Adam", beta_1=1.5),
        call("optimizers.Adam", epsilon=-1.0),
    ]
    return [{"given": given, **outcome(case, given)} for given in [*OPTIMIZERS, *bad]]


def optimizer_identifiers():
    names = ["sgd", "SGD", "Sgd", "adagrad", "Adagrad", "adam", "Adam", "ADAM", "AdaGrad", "no_such", ""]
    given = [*names, None, {"class_name": "Adam", "config": {"learning_rate": 0.5}}, {"class_name": "adam"}]
    given += [{"class_name": "SGD", "config": {"lr": 0.5}}, {"class_name": "sgd", "config": {"no_such": 1}}]
    given += [{"class_name": "SGD", "config": plain(make(OPTIMIZERS[5]).get_config())}, 3]
    return identifiers(K.optimizers, given, [])


TRAINING_IDS = [[1, 3, 1], [0, 1, 4], [3, 3, 3]]


def training_steps():
    """What `training` starts from, and is given."""
    return [{"table": pattern(5, 2), "ids": TRAINING_IDS, "gradients": pattern(3, 3, 2)[::-1]}]


def training():
    """Three steps with sparse gradients and duplicate ids, and the optimizer's weights after them, in Keras's order."""
    table, gradients = pattern(5, 2), pattern(3, 3, 2)[::-1]

    def case(given, dense, constraint):
        K.backend.clear_session()
        optimizer = make(given)
        variable = tf.Variable(table, name="embeddings", constraint=make(constraint))
        tables = []
        for rows, gradient in zip(TRAINING_IDS, gradients, strict=True):
            sparse = tf.IndexedSlices(tf.constant(gradient), tf.constant(rows, tf.int64), tf.constant([5, 2]))
            optimizer.apply_gradients([(tf.convert_to_tensor(sparse) if dense else sparse, variable)])
            tables.append(plain(variable))
        state = {"weight_names": [weight.name for weight in optimizer.weights], "weights": optimizer.get_weights()}
        return {"tables": tables, **state, "config": optimizer.get_config()}

    cases = [(given, False, None) for given in OPTIMIZERS if not {"name", "lr"} & set(given["with"])]
    cases += [(given, True, None) for given in (OPTIMIZERS[1], OPTIMIZERS[4], OPTIMIZERS[13], OPTIMIZERS[17])]
    clip = call("constraints.MaxNorm", max_value=0.5, axis=1)
    cases += [(OPTIMIZERS[1], dense, clip) for dense in (False, True)]
    facts = []
    for given, dense, constraint in cases:
        fact = {"given": given, "gradient": "dense" if dense else "sparse", "constraint": constraint}
        facts.append({**fact, **outcome(case, given, dense, constraint)})
    return facts


def training_a_layer():
    """`fit` for one batch with SGD: which layers Keras trains, and the table after the step."""
    kinds = [
        {},
        {"mask_zero": True},
        {"embeddings_regularizer": "l2"},
        {"activity_regularizer": "l2"},
        {"embeddings_constraint": call("constraints.MaxNorm", max_value=0.5, axis=1)},
        {
            "embeddings_constraint": call("constraints.MaxNorm", max_value=0.5, axis=1),
            "embeddings_regularizer": call("regularizers.L2", l2=0.0),
        },
    ]
    ids, target = [[1, 3], [1, 0]], pattern(2, 2, 2)

    def case(given):
        layer = filled(given)
        model = K.Sequential([K.Input((2,), dtype="int64"), layer])
        model.compile(K.optimizers.SGD(0.5), "mse")
        loss = model.train_on_batch(np.array(ids), target)
        return {"loss": loss, "table_after": layer.embeddings}

    facts = []
    for more in kinds:
        given = {"input_dim": 5, "output_dim": 2, **more}
        fact = {"given": given, "optimizer": call("optimizers.SGD", learning_rate=0.5), "loss_function": "mse"}
        facts.append({**fact, "ids": ids, "target": plain(target), **outcome(case, given)})
    return facts


# ---- models and files --------------------------------------------------------------------------------


def sequential():
    layers = [K.layers.Embedding(7, 3, name="words", input_length=4), K.layers.Flatten(), K.layers.Dense(1)]
    return K.Sequential(layers)


def functional():
    """Two inputs; one table is in a model inside the model."""
    words, tags = K.Input((4,), dtype="int32", name="word_ids"), K.Input((4,), dtype="int32", name="tag_ids")
    inside = K.Sequential([K.Input((4,), dtype="int32"), K.layers.Embedding(5, 2, name="tags")], name="inner")
    outer = K.layers.Embedding(7, 3, name="words", embeddings_regularizer="l2")
    return K.Model([words, tags], K.layers.Concatenate()([outer(words), inside(tags)]), name="outer")


def two_unnamed():
    return K.Sequential([K.Input((4,)), K.layers.Embedding(7, 3), K.layers.Flatten(), K.layers.Embedding(5, 2)])


MODELS = {"sequential": sequential, "functional": functional, "two_unnamed": two_unnamed}


def model(name):
    """A model with fresh names and `pattern` in each weight."""
    K.backend.clear_session()
    made = MODELS[name]()
    made.set_weights([pattern(*weight.shape) + number for number, weight in enumerate(made.weights)])
    return made


def models():
    facts = []
    for name in MODELS:
        made = model(name)
        fact = {"model": name, "config": json.loads(made.to_json()), "output_shape": plain(made.output_shape)}
        facts.append({**fact, "weight_names": [weight.name for weight in made.weights]})
    return facts


def contents(path):
    """The datasets of an HDF5 file, and its attributes without the long configs."""
    datasets, attributes = {}, {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            datasets[name] = plain(item[()])
        if item.attrs:
            attributes[name] = {key: plain(value) for key, value in item.attrs.items() if not key.endswith("_config")}

    with h5py.File(path, "r") as file:
        visit("", file)
        file.visititems(visit)
    return {"datasets": datasets, "attributes": attributes}


def files():
    """HDF5 files, as base64 of their zlib-compressed bytes."""

    def trained():
        made = model("sequential")
        made.compile(K.optimizers.Adam(0.5), "mse")
        made.train_on_batch(np.zeros((1, 4)), np.zeros((1, 1)))
        fresh = model("sequential").get_weights()
        made.set_weights(fresh)
        state = made.optimizer.get_weights()
        made.optimizer.set_weights([state[0], *(pattern(*array.shape) + 10 + i for i, array in enumerate(state[1:]))])
        return made

    facts = []
    for name, make_model in [*((name, lambda name=name: model(name)) for name in MODELS), ("trained", trained)]:
        for method in ("save_weights", "save"):
            if (name, method) in {("trained", "save_weights"), ("two_unnamed", "save")}:
                continue
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "x.h5"
                getattr(make_model(), method)(str(path))
                packed = base64.b64encode(zlib.compress(path.read_bytes(), 9)).decode()
                facts.append({"model": name, "method": method, **contents(path), "zlib_base64": packed})
    return facts


# ---- distributions -----------------------------------------------------------------------------------


def initializer_statistics():
    """Minimum, maximum, mean and standard deviation, to 3 significant digits, of a table of (4000, 16)."""
    kinds = [call("initializers." + name, seed=5) for name in RANDOM]
    kinds += [
        call("initializers.VarianceScaling", scale=2, mode=mode, distribution=distribution, seed=5)
        for mode in ("fan_in", "fan_out", "fan_avg")
        for distribution in ("uniform", "truncated_normal", "untruncated_normal")
    ]
    kinds += [
        call("initializers.RandomUniform", minval=0, maxval=3, seed=5),
        call("initializers.RandomNormal", mean=1, stddev=2, seed=5),
        call("initializers.TruncatedNormal", mean=1, stddev=2, seed=5),
        call("initializers.Orthogonal", gain=2, seed=5),
    ]
    facts = []
    for given in kinds:
        tf.random.set_seed(1)
        table = make(given)((4000, 16)).numpy().astype(np.float64)
        numbers = {"min": table.min(), "max": table.max(), "mean": table.mean(), "std": table.std()}
        numbers = {key: float(f"{value:.3g}") for key, value in numbers.items()}
        if given["call"].endswith("Orthogonal"):
            gram = table.T @ table / given["with"].get("gain", 1) ** 2
            numbers["gram_is_identity_within"] = 1e-4 if np.abs(gram - np.eye(16)).max() < 1e-4 else 1.0
        facts.append({"given": given, "shape": [4000, 16], **numbers})
    return facts


def fans():
    compute = keras.initializers.initializers_v2._compute_fans
    return [{"shape": shape, "fans": plain(compute(shape))} for shape in ([], [5], [4000, 16], [2, 3, 5])]


def seeds():
    """Whether numbers come again without `tf.random.set_seed`: from one object, and from two of the same seed."""

    def equal(one, other):
        return bool(np.array_equal(one.numpy(), other.numpy()))

    facts = []
    for name in ("RandomUniform", "GlorotNormal", "Orthogonal"):
        for seed in (None, 5):
            given = call("initializers." + name, seed=seed)
            one, two = make(given), make(given)
            tables = [one((4, 3)), one((4, 3)), two((4, 3))]
            same = {"same_object": equal(tables[0], tables[1]), "two_objects": equal(tables[0], tables[2])}
            facts.append({"given": given, **same})
    return facts


def patterns():
    return [
        {"shape": list(shape), "value": plain(PATTERNS[shape])} for shape in sorted(PATTERNS, key=lambda s: (len(s), s))
    ]


SECTIONS = [
    layer_configs,
    layer_from_config,
    initializer_identifiers,
    regularizer_identifiers,
    constraint_identifiers,
    initializer_values,
    matrices,
    constraint_values,
    regularizer_values,
    losses,
    losses_over_calls,
    losses_in_models,
    calls,
    given_weights,
    output_shapes,
    symbolic_shapes,
    names,
    names_in_models,
    registered,
    optimizer_configs,
    optimizer_identifiers,
    training_steps,
    training,
    training_a_layer,
    models,
    files,
    fans,
    seeds,
    initializer_statistics,  # after `seeds`: it sets the seed of TensorFlow
    patterns,  # last: it has what the others made
]


def main():
    assert tf.__version__ == "2.9.3", tf.__version__
    tf.get_logger().setLevel("ERROR")
    compact = {"allow_nan": False, "ensure_ascii": False, "separators": (",", ":")}
    versions = {"tensorflow": tf.__version__, "keras": keras.__version__, "h5py": h5py.__version__}
    lines = [json.dumps("made_with") + ":" + json.dumps(versions, **compact)]
    for section in SECTIONS:
        cases = [json.dumps(plain(case), **compact) for case in section()]
        lines.append(json.dumps(section.__name__) + ":[\n" + ",\n".join(cases) + "\n]")
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    Path(__file__).with_name("keras29_facts.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
