"""A user's program with a mistake in each line, for tests/test_types.py, which never runs it.

May import: fastembed and NumPy. Do not break: a line ends with the code of the one error that `mypy --strict` has for
it; lines without a comment have none.
"""

import numpy as np
from numpy.typing import NDArray

import fastembed
from fastembed import EmbeddingBag, IndexedSlices, Ragged, Table, formats, initializers, ops, optimizers, schedules

layer = fastembed.Embedding(100, 8)
bag = EmbeddingBag(100, 8)
ragged = Ragged.from_lists([[1, 2], [3]])
table = Table((100, 8))
adam = optimizers.Adam()
checkpoint = fastembed.Checkpoint(table)

# Names
fastembed.Embeding(100, 8)  # attr-defined
layer.embedding.numpy()  # attr-defined
optimizers.Adamw()  # attr-defined
table.shuffle()  # attr-defined
EmbeddingBag(100, 8, "average")  # arg-type
bag.combiner = "avg"  # assignment
Table((100, 8), "float8")  # arg-type
layer.quantize("int3")  # arg-type
fastembed.load("words", mmap_mode="w")  # arg-type
formats.load("words.bin", "word2vec_text")  # arg-type
ops.pool(np.eye(3), [0], np.array([0, 1]), combiner="max_norm")  # arg-type
optimizers.Adam(untouched="catchup")  # arg-type
optimizers.SGD(state_dtype="float16")  # arg-type
initializers.VarianceScaling(mode="fan")  # arg-type

# Arguments
fastembed.Embedding(100)  # call-arg
fastembed.Embedding(100, 8, combiner="sum")  # call-arg
fastembed.Embedding(100, 8, dim=8)  # call-arg
EmbeddingBag(100, 8, learning_rate=0.1)  # call-arg
optimizers.Adam(lr=0.1)  # call-arg
optimizers.Adam(beta1=0.9)  # call-arg
optimizers.Adam(0.1, decay=0.1)  # call-arg
optimizers.SGD(0.1, clipnorm="1")  # arg-type
optimizers.Adagrad("0.1")  # arg-type
schedules.CosineDecay(0.1)  # call-arg
fastembed.Embedding("100", 8)  # arg-type
fastembed.Embedding(100.0, 8)  # arg-type
fastembed.set_num_threads("2")  # arg-type
formats.save(table, "words.npz")  # arg-type
checkpoint.save("training", True, 2)  # call-overload
checkpoint.save(3)  # call-overload
fastembed.Checkpoint(adam)  # arg-type
layer.enable_lora()  # call-arg
table.resize("200")  # arg-type

# What is returned
vectors: NDArray[np.float32] = layer(ragged)  # assignment
rows: Ragged = layer([1, 2])  # assignment
table.assign(ragged)  # arg-type
rate: int = adam.learning_rate  # assignment
adam.iterations = "3"  # assignment
table.shape = (3, 4)  # misc
checkpoint.save("training").wait()  # attr-defined
checkpoint.save("training", wait=False).stop()  # attr-defined
layer.weights.numpy()  # attr-defined

# Gradients and variables
adam.apply_gradients(layer.gradient([1], [[1.0] * 8]), layer.embeddings)  # call-arg, arg-type
adam.apply_gradients([layer.gradient([1], [[1.0] * 8])])  # list-item
adam.apply([layer.gradient([1], [[1.0] * 8])], [layer])  # list-item
IndexedSlices(np.ones((3, 2)), [1, 2, 3])  # call-arg
layer.gradient([1], [[1.0] * 8]) + np.ones(8)  # operator
adam.state(layer)  # arg-type
layer.gradient([1])  # call-arg
bag.weights_gradient([[1]], [[1.0] * 8])  # call-arg
