"""Files of words: word2vec's text and binary, GloVe's text, gensim's own; with gensim where it is installed.

Do not break: each row of a file becomes one row, words are UTF-8 to the letter, and nothing in a pickle is run.
"""

import gzip
import os
import pickle
import struct

import numpy as np
import pytest
from formats_cases import LAYERS, D, V, damaged, layer_of, numbers, refuses
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import peer

from fastembed import Embedding, formats, initializers
from fastembed.formats import matrix, word_files

WORDS = ["the", "straße", "日本語", "🙂", "a\u00a0b", "a\u2028b", "\tx", "\x85", "-1", "nan", "e\u0301", "'\""]
WORDS += [f"word{number}" for number in range(V - len(WORDS))]
FORMATS = {"word2vec": ".txt", "word2vec_binary": ".bin", "glove": ".txt"}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", LAYERS)
def test_round_trip(kind, format, tmp_path, monkeypatch):
    """Each float32 comes back; a float64 table is written as float32. The content tells text with a first line."""
    monkeypatch.setattr(matrix, "BLOCK", 200)
    layer = layer_of(kind, tmp_path)
    path = tmp_path / f"a{FORMATS[format]}"
    formats.save(layer, path, format, vocabulary=WORDS)
    loaded = formats.load(path)
    assert loaded.dtype == "float32"
    assert np.array_equal(numbers(loaded), numbers(layer).astype("float32"))
    assert formats.load_vocabulary(path) == formats.load_vocabulary(path, format) == WORDS
    assert formats.format_of(path, reading=True) == format
    packed = tmp_path / f"b{FORMATS[format]}.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert np.array_equal(numbers(formats.load(packed)), numbers(loaded))
    assert formats.load_vocabulary(packed) == WORDS


@pytest.mark.parametrize("format", FORMATS)
def test_values_to_the_bit(format, tmp_path, rng):
    bits = rng.integers(0, 1 << 32, (400, 3), "uint32")
    values = bits.view("float32")
    values = np.where(np.isfinite(values), values, np.float32(0))
    values[0] = 1e-45, 3.4028235e38, -0.0
    layer = Embedding(400, 3, weights=values)
    path = tmp_path / f"a{FORMATS[format]}"
    formats.save(layer, path, format, vocabulary=[f"w{row}" for row in range(400)])
    assert numbers(formats.load(path)).tobytes() == values.tobytes()


def test_not_finite(tmp_path):
    values = np.array([[np.nan, np.inf, -np.inf]], "float32")
    for name in ("a.txt", "a.bin"):
        formats.save(Embedding(1, 3, weights=values), tmp_path / name, vocabulary=["w"])
        assert np.array_equal(numbers(formats.load(tmp_path / name)), values, equal_nan=True)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1)])
@pytest.mark.parametrize("format", FORMATS)
def test_small(format, shape, tmp_path):
    path = tmp_path / f"a{FORMATS[format]}"
    layer = Embedding(*shape)
    formats.save(layer, path, format, vocabulary=list("abcdefg"[: shape[0]]))
    assert np.array_equal(numbers(formats.load(path, format)), numbers(layer))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # gensim leaves a file open
@pytest.mark.parametrize("format", ["word2vec", "word2vec_binary"])
def test_theirs(format, tmp_path):
    keyed = peer("gensim.models").KeyedVectors
    words = [word for word in WORDS if "\x85" not in word and "\u2028" not in word and "\t" not in word]
    layer, binary = Embedding(len(words), D, "normal"), format == "word2vec_binary"
    path = tmp_path / f"a{FORMATS[format]}"
    formats.save(layer, path, vocabulary=words)
    theirs = keyed.load_word2vec_format(path, binary=binary)
    assert theirs.index_to_key == words
    assert np.array_equal(theirs.vectors, numbers(layer))
    theirs.save_word2vec_format(str(path), binary=binary)
    assert np.array_equal(numbers(formats.load(path)), numbers(layer))
    assert formats.load_vocabulary(path) == words
    if not binary:
        theirs.save_word2vec_format(str(path), write_header=False)
        assert formats.format_of(path, reading=True) == "glove"
        assert np.array_equal(numbers(formats.load(path)), numbers(layer))
        formats.save(layer, path, "glove", vocabulary=words)
        assert keyed.load_word2vec_format(path, no_header=True).index_to_key == words


@pytest.mark.parametrize("apart", [{}, {"sep_limit": 0}])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_theirs_of_gensim(protocol, apart, tmp_path):
    """In the pickle, or in a file beside it; with counts."""
    keyed = peer("gensim.models").KeyedVectors
    theirs = keyed(D)
    vectors = np.random.default_rng(3).standard_normal((V, D)).astype("float32")
    theirs.add_vectors(WORDS, vectors)
    for row, word in enumerate(WORDS):
        theirs.set_vecattr(word, "count", row)
    path = tmp_path / "a.kv"
    theirs.save(str(path), pickle_protocol=protocol, **apart)
    assert np.array_equal(numbers(formats.load(path)), vectors)
    assert formats.load_vocabulary(path) == WORDS
    assert [(each.name, each.shape) for each in formats.find(path)] == [("vectors", (V, D))]
    if apart:
        os.remove(f"{path}.vectors.npy")
        refuses(path, "must have its vectors beside it")


def test_models_of_gensim(tmp_path):
    """What its models make; a whole model is refused, and FastText's parts."""
    models = peer("gensim.models")
    about = {"sentences": [["a", "b", "c"] * 5] * 9, "vector_size": 8, "min_count": 1, "workers": 1}
    model, fast = models.Word2Vec(**about), models.FastText(**about, bucket=100)
    for apart in ({}, {"sep_limit": 0}):
        model.wv.save(str(tmp_path / "a.kv"), **apart)
        assert np.array_equal(numbers(formats.load(tmp_path / "a.kv")), model.wv.vectors)
        assert formats.load_vocabulary(tmp_path / "a.kv") == model.wv.index_to_key
        fast.wv.save(str(tmp_path / "b.kv"), **apart)
        refuses(tmp_path / "b.kv", "gensim's save_word2vec_format writes")
    for each in (model, fast):
        each.save(str(tmp_path / "a.model"))
        refuses(tmp_path / "a.model", r"Received: gensim\.models\.\w*\.\w*, which is not run", format="gensim")
    fast.wv.save_word2vec_format(str(tmp_path / "a.vec"))
    assert np.array_equal(numbers(formats.load(tmp_path / "a.vec")), fast.wv.vectors)


def test_gensim_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="'word2vec_binary'"):
        formats.save(Embedding(2, 3), tmp_path / "a.kv", vocabulary=["a", "b"])
    assert os.listdir(tmp_path) == []


def test_files_of_others(tmp_path):
    """As word2vec.c, fastText, GloVe and Windows write them."""
    rows = [struct.pack("<2f", row, row + 0.5) for row in range(3)]
    path = tmp_path / "a.bin"
    path.write_bytes(
        b"3 2\n" + b"".join(word + b" " + row + b"\n" for word, row in zip([b"</s>", b"a", b"b"], rows, strict=True))
    )
    assert formats.load_vocabulary(path) == ["</s>", "a", "b"]
    assert numbers(formats.load(path)).tolist() == [[0, 0.5], [1, 1.5], [2, 2.5]]
    path = tmp_path / "a.vec"
    for text in (
        "3 2\na 0 .5 \nb 1 1.5 \nc 2 25e-1 \n",
        "3 2\r\na 0 0.5\r\nb 1 1.5\r\nc 2 2.5\r\n",
        "a 0 0.5\nb 1 1.5\n\nc 2 2.5",
    ):
        path.write_bytes(text.encode())
        assert formats.load_vocabulary(path) == ["a", "b", "c"]
        assert numbers(formats.load(path)).tolist() == [[0, 0.5], [1, 1.5], [2, 2.5]]
    path.write_text("a 0 0.5\n. . . 1 1.5\n\u00a0 2 2.5\n", encoding="utf-8")  # words with spaces, as in GloVe's 840B
    assert formats.load_vocabulary(path) == ["a", ". . .", "\u00a0"]
    assert numbers(formats.load(path)).tolist() == [[0, 0.5], [1, 1.5], [2, 2.5]]


def test_words_that_are_no_utf8_or_twice(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"2 1\na\xff 1\nb 2\n")
    assert numbers(formats.load(path)).tolist() == [[1], [2]]
    with pytest.raises(ValueError, match="must hold words in UTF-8"):
        formats.load_vocabulary(path)
    assert formats.load_vocabulary(path, errors="replace") == ["a\ufffd", "b"]
    assert formats.load_vocabulary(path, errors="ignore") == ["a", "b"]
    with pytest.raises(ValueError, match="`errors` must be"):
        formats.load_vocabulary(path, errors="surrogateescape")
    path.write_bytes(b"3 1\na 1\nb 2\na 3\n")
    assert formats.load(path).input_dim == 3
    with pytest.raises(ValueError, match=r"each word once\. Received: 'a' in rows 0 and 2"):
        formats.load_vocabulary(path)


def test_vocabularies(tmp_path):
    layer = Embedding(2, 3)
    for name in ("a.txt", "a.bin"):
        for wrong in (None, "ab", b"ab", [], ["a"], ["a", "b", "c"], ["a", "a"], ["a", ""], ["a", "b c"], ["a", "b\n"]):
            with pytest.raises(ValueError, match="`vocabulary` must "):
                formats.save(layer, tmp_path / name, vocabulary=wrong)
        for wrong in (["a", 3], ["a", b"b"], ["a", "\ud800"], ["a", "b\r"]):
            with pytest.raises(ValueError, match="`vocabulary` must "):
                formats.save(layer, tmp_path / name, vocabulary=wrong)
    with pytest.raises(ValueError, match="`vocabulary` must be None for a format without words"):
        formats.save(layer, tmp_path / "a.npy", vocabulary=["a", "b"])
    assert os.listdir(tmp_path) == []
    formats.save(layer, tmp_path / "a.npy")
    with pytest.raises(ValueError, match="must be of a format with words"):
        formats.load_vocabulary(tmp_path / "a.npy")
    formats.save(layer, tmp_path / "a.txt", vocabulary=iter(np.array(["a", "b"])))


@pytest.mark.parametrize("name", ["a.txt", "a.bin", "a.vec"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"0 3\n",
        b"3 0\n",
        b"-1 3\na 1 2 3\n",
        b"99999999999 3\na 1 2 3\n",
        b"3 99999999999\na 1 2 3\n",
        b"99999999999999999999999 99999999999999999999\n",
        b"2 3\na 1 2 3\n",
        b"1 3\na 1 2 3\nb 1 2 3\n",
        b"1 3\na 1 2\n",
        b"1 3\na 1 2 x\n",
        b"1 3\na 1  3\n",
        b"1 3\na 1,5 2 3\n",
        b"1 3\na 0x1p3 2 z3\n",
        b"a\n",
        b"a b\n",
        b"a 1 2\nb 1\n",
        b"a 1 2\nb 1 c\n",
        b"\xba\x16\x4f\x2f\x0c" + bytes(100),  # a model of fastText
        b"\x1f\x8b",
        b"\x1f\x8b" + bytes(100),
        gzip.compress(b"2 3\na 1 2 3\n", mtime=0),
        gzip.compress(b"1 3\na 1 2 3\n", mtime=0)[:-5],
    ],
)
def test_damaged(content, name, tmp_path):
    (tmp_path / name).write_bytes(content)
    refuses(tmp_path / name, "`path` must ")
    with pytest.raises(ValueError, match="`path` must "):
        formats.load_vocabulary(tmp_path / name)


def test_lines_without_an_end(tmp_path, monkeypatch):
    monkeypatch.setattr(matrix, "BLOCK", 1000)
    (tmp_path / "a.txt").write_bytes(b"x" * 10_000)
    refuses(tmp_path / "a.txt", "must have lines of at most")


@pytest.mark.parametrize("format", FORMATS)
def test_cut_and_changed(format, tmp_path):
    path = tmp_path / f"good{FORMATS[format]}"
    layer = Embedding(3, 2, initializers.RandomNormal(seed=1))  # the length of its text is known
    formats.save(layer, path, format, vocabulary=["a", "é", "ccc"])
    if format == "word2vec_binary":
        damaged(path, checked=False, words=True)
        return
    lines = path.read_bytes().splitlines(keepends=True)
    for cut in range(len(lines)):  # a number that is cut is a number; a missing line is found by the first one
        path.write_bytes(b"".join(lines[:cut]))
        if format == "word2vec" or cut == 0:
            refuses(path, "`path` must ", format=format)
    path.write_bytes(b"".join(lines)[:-14])
    refuses(path, "`path` must ")


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=100), first=st.sampled_from([b"", b"1 1\n", b"2 3\n", b"9 1\n"]))
def test_random_bytes(format, first, content, tmp_path_factory):
    path = tmp_path_factory.mktemp("random") / "a.txt"
    path.write_bytes(first + content)
    for task in (formats.load, formats.load_vocabulary):
        try:
            task(path, format)
        except ValueError as error:
            assert str(error).startswith("`path` must ")


@settings(max_examples=100, deadline=None)
@given(
    words=st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters=" \n\r"), min_size=1, max_size=20),
        min_size=1,
        unique=True,
    ),
    block=st.integers(100, 1000),
    format=st.sampled_from(list(FORMATS)),
)
def test_any_words(words, block, format, tmp_path_factory):
    path = tmp_path_factory.mktemp("words") / f"a{FORMATS[format]}"
    layer = Embedding(len(words), 3, "normal")
    formats.save(layer, path, format, vocabulary=words)
    before, matrix.BLOCK = matrix.BLOCK, block
    try:
        assert np.array_equal(numbers(formats.load(path, format)), numbers(layer))
        assert formats.load_vocabulary(path, format) == words
    finally:
        matrix.BLOCK = before


# ---- pickles of gensim, by hand ----------------------------------------------------------------------


class Call:
    """What a stranger pickles: a call of any function."""

    def __init__(self, function, *arguments):
        self.parts = function, arguments

    def __reduce__(self):
        return self.parts


def keyed(**state):
    """A pickle of a KeyedVectors with this state, made without gensim."""
    values = pickle.dumps(state, 2)[2:-1]
    return b"\x80\x02cgensim.models.keyedvectors\nKeyedVectors\n)\x81" + values + b"b."


def test_by_hand(tmp_path):
    path = tmp_path / "a.kv"
    array = np.arange(6, dtype="float32").reshape(3, 2)
    for vectors in (array, array.astype(">f4"), array.astype("float64"), array.astype("float16")):
        path.write_bytes(keyed(vectors=vectors, index_to_key=["a", "b", "c"]))
        assert np.array_equal(numbers(formats.load(path)), array)
        assert formats.load_vocabulary(path) == ["a", "b", "c"]
    path.write_bytes(keyed(vectors=array, index2word=["a", "b", "c"]))  # gensim 3
    assert formats.load_vocabulary(path) == ["a", "b", "c"]
    for vectors in (
        None,
        3,
        [1, 2],
        np.arange(6.0),
        np.zeros((2, 2), "int64"),
        np.asfortranarray(array),
        np.zeros((2, 2), "complex64"),
        np.array([["a", "b"]]),
        np.array([[None]]),
        np.zeros((0, 2), "float32"),
        np.zeros((2, 2), [("a", "f4")]),
        np.float32(3),
    ):
        path.write_bytes(keyed(vectors=vectors, index_to_key=["a"]))
        refuses(path, "`path` must ")
    for words in (None, ["a"], ["a", "b", 3], ["a", "b", "b"], "abc"):
        path.write_bytes(keyed(vectors=array, index_to_key=words))
        with pytest.raises(ValueError, match="`path` must "):
            formats.load_vocabulary(path)
    for content in (b"", b"N.", pickle.dumps({"vectors": array}), keyed()[:-2], pickle.dumps(array), keyed(__numpys=3)):
        path.write_bytes(content)
        refuses(path, "`path` must ")


def test_nothing_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.kv"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        for call in (Call(os.system, "touch executed"), Call(eval, "open('executed', 'w')"), Call(np.fromfile, "a.kv")):
            for content in (pickle.dumps(call, protocol), pickle.dumps([call], protocol)):
                path.write_bytes(content)
                refuses(path, "which is not run")
    path.write_bytes(keyed(vectors=Call(os.system, "touch executed")))
    refuses(path, r"\.system, which is not run")
    assert os.listdir(tmp_path) == ["a.kv"]


def test_shapes_that_lie(tmp_path):
    path, array = tmp_path / "a.kv", np.arange(6, dtype="float32").reshape(3, 2)
    good = keyed(vectors=array, index_to_key=["a", "b", "c"])
    assert b"K\x03K\x02\x86" in good
    for lie in (
        b"K\x04K\x02\x86",
        b"K\x02K\x02\x86",
        b"J\xff\xff\xff\xffK\x02\x86",
        b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7fK\x02\x86",
    ):
        path.write_bytes(good.replace(b"K\x03K\x02\x86", lie))
        refuses(path, "`path` must ")


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=20), at=st.integers(0, 300))
def test_random_pickles(content, at, tmp_path_factory):
    path = tmp_path_factory.mktemp("random") / "a.kv"
    good = keyed(vectors=np.arange(6, dtype="float32").reshape(3, 2), index_to_key=["a", "b", "c"])
    path.write_bytes(good[:at] + content + good[at + len(content) :])
    for task in (formats.load, formats.load_vocabulary):
        try:
            task(path)
        except ValueError as error:
            assert str(error).startswith("`path` must ")


def test_the_longest_word(tmp_path, monkeypatch):
    monkeypatch.setattr(word_files, "_LONGEST_WORD", 100)
    monkeypatch.setattr(matrix, "BLOCK", 10)
    path = tmp_path / "a.bin"
    path.write_bytes(b"1 1\n" + b"w" * 200 + b" 1234")
    refuses(path, "which ends in row 0")
