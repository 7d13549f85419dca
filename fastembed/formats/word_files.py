"""Words and their vectors: word2vec's text and binary files, and GloVe's text, which has no first line.

May import: files, matrix. Do not break: a word is whatever bytes stand before its numbers; it is looked at only where
somebody asks for words, and a row is never left out.

Text: a line for each word, of the word and its numbers with single spaces between them; word2vec's has a line before,
"rows dim". Binary: that line, then word, space, and dim float32; after it there may be a newline.
Source: word2vec.c of Mikolov et al., 2013; `load_word2vec_format` of gensim; nlp.stanford.edu/projects/glove.
"""

import gzip
import os

import numpy as np

from fastembed import files
from fastembed.formats import matrix
from fastembed.formats.matrix import Matrix

_LONGEST_WORD = 1 << 20


def has_sizes(path):
    """Whether a text file begins with a line "rows dim", as word2vec's does."""
    with matrix.damage(path, "text"), _opened(path) as file:
        return _sizes(file.readline(100)) is not None


def find(path, format):
    """The matrix of a file."""
    shape, start = _shape(path, format)
    return [Matrix("", shape, "float32", lambda: (block_nd for _, block_nd in _rows(path, format, shape, start)))]


def words(path, format, errors):
    """The words of a file."""
    found = []
    for block, _ in _rows(path, format, *_shape(path, format)):
        try:
            found += [word.decode("utf-8", errors) for word in block]
        except UnicodeDecodeError as error:
            raise ValueError(
                f"`path` must hold words in UTF-8, or `errors` be 'replace' or 'ignore'. Received: path={path!r}, from "
                f"row {len(found)} on: {error}"
            ) from error
    return found


def _opened(path):
    """The file, or what is in one of gzip."""
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if packed else open(path, "rb")


def _sizes(line):
    """(rows, dim) of a line of two numbers, or None."""
    fields = line.split()
    if len(fields) != 2 or not all(field.lstrip(b"-").isdigit() for field in fields):
        return None
    return tuple(map(int, fields))


def _shape(path, format):
    """(rows, dim), and where the rows begin."""
    with matrix.damage(path, format), _opened(path) as file:
        if format == "glove":
            shape, start = _count(file), 0
        else:
            shape = _sizes(file.readline(100))
            start = file.tell()
        if shape is None or min(shape) < 1:
            what = "lines of a word and numbers" if format == "glove" else "a first line 'rows dim'"
            raise ValueError(f"`path` must have {what}. Received: path={path!r}, which has not")
        room = os.path.getsize(path) * (matrix.EXPANSION if isinstance(file, gzip.GzipFile) else 1)
    size = shape[0] * (1 + shape[1] * (4 if format == "word2vec_binary" else 2)) - 1  # perhaps no last newline
    if size > room - start:
        raise ValueError(
            f"`path` must be a whole file. Received: path={path!r}: {shape} rows and numbers in {room} bytes"
        )
    return shape, start


def _piece():
    """The bytes that are read at a time: less than of matrices, since short rows become many objects."""
    return max(1, matrix.BLOCK // 8)


def _count(file):
    """(rows, dim) of lines without a first one that says it; None if there are none."""
    rows = dim = 0
    for lines in _lines(file):
        lines = [line for line in lines if not line.isspace()]
        if lines and not rows:
            dim = lines[0].rstrip().count(b" ")
        rows += len(lines)
    return (rows, dim) if rows else None


def _lines(file):
    """Yields the lines of a file that have something in them, in lists."""
    rest = b""
    while more := file.read(_piece()):
        *lines, rest = (rest + more).split(b"\n")
        if not lines and len(rest) > 4 * matrix.BLOCK:
            raise ValueError(f"`path` must have lines of at most {4 * matrix.BLOCK} bytes. Received: {len(rest)}")
        yield [line for line in lines if line]
    yield [rest] if rest else []


def _rows(path, format, shape, start):
    """Yields (list of words as bytes, float32 array of their vectors)."""
    rows, dim = shape
    read, done = _binary if format == "word2vec_binary" else _text, 0
    with matrix.damage(path, format), _opened(path) as file:
        file.seek(start)
        for block, block_nd in read(file, rows, dim, path):
            yield block, block_nd
            done += len(block)
    if done != rows:
        raise ValueError(f"`path` must have {rows} rows. Received: path={path!r}, which has {done}")


def _binary(file, rows, dim, path):
    size, rest, done = 4 * dim, b"", 0
    while done < rows:
        more = file.read(_piece())
        octets, block, values, at = rest + more, [], bytearray(), 0
        while done + len(block) < rows:
            space = octets.find(b" ", at)
            if space < 0 or len(octets) - space - 1 < size:
                break
            block.append(octets[at:space].lstrip(b"\n"))
            at = space + 1 + size
            values += memoryview(octets)[space + 1 : at]
        if not block and (not more or len(octets) > size + _LONGEST_WORD):
            raise ValueError(f"`path` must be a whole file. Received: path={path!r}, which ends in row {done}")
        rest, done = octets[at:], done + len(block)
        if block:
            yield block, np.frombuffer(values, "<f4").reshape(-1, dim).astype(np.float32, copy=False)
    if (rest + file.read(matrix.BLOCK)).strip():
        raise ValueError(f"`path` must have {rows} rows. Received: path={path!r}, which has more")


def _text(file, rows, dim, path):
    done = 0
    for lines in _lines(file):
        block, numbers = [], []
        for line in lines:
            line = line.rstrip()
            if not line:
                continue
            # Words of GloVe may have spaces in them.
            word, *rest = line.split(b" ", 1) if line.count(b" ") == dim else _parts(line, dim)
            if not rest:
                raise ValueError(
                    f"`path` must have a word and {dim} numbers in a line. Received: path={path!r}: row "
                    f"{done + len(block)} is {line[:80]!r}"
                )
            block.append(word)
            numbers.append(rest[0].decode("latin-1"))
        if done + len(block) > rows:
            raise ValueError(f"`path` must have {rows} rows. Received: path={path!r}, which has more")
        if block:
            yield block, _floats(numbers, dim, done, path)
        done += len(block)


def _parts(line, dim):
    """[the word of a line, its numbers], or [the line] if it has too few."""
    word, *numbers = line.rsplit(b" ", dim)
    return [word, b" ".join(numbers)] if len(numbers) == dim else [line]


def _floats(numbers, dim, first_row, path):
    """Lines of numbers as an array."""
    try:
        return np.loadtxt(numbers, np.float32, comments=None, delimiter=" ", ndmin=2).reshape(len(numbers), dim)
    except ValueError:
        for row, line in enumerate(numbers, first_row):
            for text in line.split(" "):
                try:
                    float(text)
                except ValueError:
                    raise ValueError(
                        f"`path` must have numbers after each word. Received: path={path!r}: {text[:80]!r} in row {row}"
                    ) from None
        raise


# ---- writing ---------------------------------------------------------------------------------------------------------


def check(vocabulary, rows):
    """The words in UTF-8, if they can be written."""
    if vocabulary is None or isinstance(vocabulary, (str, bytes)):
        raise ValueError(
            f"`vocabulary` must be a word for each row in this format. Received: {type(vocabulary).__name__}"
        )
    vocabulary = list(vocabulary)
    if len(vocabulary) != rows:
        raise ValueError(f"`vocabulary` must have a word for each of {rows} rows. Received: {len(vocabulary)} words")
    for row, word in enumerate(vocabulary):
        if not isinstance(word, str) or not word or not {" ", "\n", "\r"}.isdisjoint(word):
            raise ValueError(
                f"`vocabulary` must be strings with something in them, but no spaces and no newlines. Received: "
                f"{word!r} in row {row}"
            )
    refuse_twins(vocabulary, "vocabulary")
    try:
        return [word.encode() for word in vocabulary]
    except UnicodeEncodeError as error:
        raise ValueError(f"`vocabulary` must be words that UTF-8 has. Received: {error}") from error


def refuse_twins(vocabulary, argument):
    """ValueError for a word that comes twice."""
    rows = {}
    for row, word in enumerate(vocabulary):
        if rows.setdefault(word, row) != row:
            raise ValueError(
                f"`{argument}` must have each word once. Received: {word!r} in rows {rows[word]} and {row}"
            )


def save(layer, path, format, vocabulary, progress):
    """Writes a layer; see `fastembed.formats.save`."""
    encoded = check(vocabulary, layer.input_dim)
    write = _write_binary if format == "word2vec_binary" else _write_text
    with files.new_file(path) as beside, layer.embeddings.lock, open(beside, "xb") as file:
        if format != "glove":
            file.write(b"%d %d\n" % (layer.input_dim, layer.output_dim))
        for row, values_nd in layer.merged_blocks():
            file.writelines(write(encoded[row : row + len(values_nd)], values_nd))
            if progress is not None:
                progress(row + len(values_nd), layer.input_dim)


def _write_binary(block, values_nd):
    """Yields the bytes of some rows, as gensim writes them."""
    for word, values_d in zip(block, values_nd.astype("<f4", copy=False), strict=True):
        yield word + b" "
        yield values_d


def _write_text(block, values_nd):
    """Yields the lines of some rows. Nine digits give each float32 back."""
    line = b" %.9g" * values_nd.shape[1] + b"\n"
    for word, values_d in zip(block, values_nd.astype(np.float32, copy=False), strict=True):
        yield word + line % tuple(values_d.tolist())
