"""Calls of Python functions from compiled JAX programs, on the memory of XLA itself: nothing is copied.

May import: nothing of the package. Do not break: a function sees operands and results while it runs and no longer; what
it wants to keep of them it copies.

`jax.pure_callback` hands over JAX arrays that its own threads still have to copy, and waits for them on one of these
threads: on few processors that can wait for ever (jax-ml/jax#24255). Here XLA calls a handler of its foreign function
interface, whose C structs are described below; their layout is that of version 0 of the interface.
"""

import ctypes
import itertools
import math
import pathlib
import re
import weakref

import jax
import numpy as np

TARGET = "fastembed"
MAJOR = 0  # of the interface's version; another minor one only adds fields at the end of structs
_METADATA, _EXECUTE = 1, 3  # an extension type, an execution stage
# Codes of errors by type; any other is INTERNAL.
_CODES = {IndexError: 11, ValueError: 3, TypeError: 3, MemoryError: 8, NotImplementedError: 12}
_INTERNAL = 13
_DTYPES = {
    1: "bool", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "uint8", 7: "uint16", 8: "uint32", 9: "uint64",
    10: "float16", 11: "float32", 12: "float64", 16: "bfloat16",
}  # fmt: skip
_DTYPES = {code: jax.numpy.dtype(name) for code, name in _DTYPES.items()}

_pointer, _size, _int64 = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64


class _Buffer(ctypes.Structure):
    _fields_ = [("struct_size", _size), ("extension", _pointer), ("dtype", ctypes.c_int), ("data", _pointer)]
    _fields_ += [("rank", _int64), ("dims", ctypes.POINTER(_int64))]


class _Buffers(ctypes.Structure):
    _fields_ = [("struct_size", _size), ("extension", _pointer), ("size", _int64), ("types", _pointer)]
    _fields_ += [("items", ctypes.POINTER(ctypes.POINTER(_Buffer)))]


class _Number(ctypes.Structure):
    _fields_ = [("dtype", ctypes.c_int), ("value", ctypes.POINTER(_int64))]


class _Numbers(ctypes.Structure):
    _fields_ = [("struct_size", _size), ("extension", _pointer), ("size", _int64), ("types", _pointer)]
    _fields_ += [("names", _pointer), ("items", ctypes.POINTER(ctypes.POINTER(_Number)))]


class _Version(ctypes.Structure):
    _fields_ = [("struct_size", _size), ("extension", _pointer), ("major", ctypes.c_int), ("minor", ctypes.c_int)]


class _Metadata(ctypes.Structure):
    _fields_ = [("struct_size", _size), ("version", _Version), ("traits", ctypes.c_uint32)]


class _Extension(ctypes.Structure):
    _fields_ = [("struct_size", _size), ("type", ctypes.c_int), ("next", _pointer)]
    _fields_ += [("metadata", ctypes.POINTER(_Metadata))]


class _Failure(ctypes.Structure):
    _fields_ = [("struct_size", _size), ("extension", _pointer), ("message", ctypes.c_char_p), ("code", ctypes.c_int)]


_make_error = ctypes.CFUNCTYPE(_pointer, ctypes.POINTER(_Failure))


class _Api(ctypes.Structure):
    _fields_ = [("struct_size", _size), ("extension", _pointer), ("version", _Version), ("internal", _pointer)]
    _fields_ += [("make_error", _make_error)]


class _Frame(ctypes.Structure):
    _fields_ = [("struct_size", _size), ("extension", ctypes.POINTER(_Extension)), ("api", ctypes.POINTER(_Api))]
    _fields_ += [("context", _pointer), ("stage", ctypes.c_int)]
    _fields_ += [("operands", _Buffers), ("results", _Buffers), ("numbers", _Numbers)]


def _array(buffer):
    """The memory of a buffer as an array."""
    shape = tuple(buffer.dims[: buffer.rank])
    dtype = _DTYPES[buffer.dtype]
    if 0 in shape:
        return np.empty(shape, dtype)
    memory = (ctypes.c_char * (math.prod(shape) * dtype.itemsize)).from_address(buffer.data)
    return np.ndarray(shape, dtype, memory)


def _arrays(buffers):
    return [_array(buffers.items[i].contents) for i in range(buffers.size)]


_NOTHING = np.zeros(0, bool)  # an operand for None: no function takes bools


_functions = []  # by the numbers in compiled programs
_things = weakref.WeakValueDictionary()  # layers and the like, by the numbers in compiled programs
_numbers, _next = weakref.WeakKeyDictionary(), itertools.count(1)


def function(python):
    """Makes a function callable: it is given the results to write to, the things of the call, then the operands."""
    _functions.append(python)
    python.number = len(_functions) - 1
    return python


def _number_of(thing):
    """A number for an object, in a program that does not keep it alive."""
    number = _numbers.get(thing)
    if number is None:
        number = _numbers[thing] = next(_next)
        _things[number] = thing
    return number


def _thing(number):
    thing = _things.get(number)
    if thing is None:
        raise ValueError("a compiled function must not outlive the layers and optimizers in it. Received: one that did")
    return thing


def _version():
    """(major, minor) of the interface of the jaxlib that is installed, from its header."""
    header = pathlib.Path(jax.ffi.include_dir(), "xla", "ffi", "api", "c_api.h").read_text(encoding="utf-8")
    major, minor = (int(re.search(rf"#define XLA_FFI_API_{part} (\d+)", header)[1]) for part in ("MAJOR", "MINOR"))
    if major != MAJOR:
        raise ImportError(
            f"fastembed.jax must have version {MAJOR} of XLA's foreign function interface. Received: {major}.{minor}, "
            f"in JAX {jax.__version__}"
        )
    return major, minor


_VERSION = _version()


@ctypes.CFUNCTYPE(_pointer, ctypes.POINTER(_Frame))
def _handler(frame_pointer):
    """What XLA calls."""
    frame = frame_pointer.contents
    if frame.extension and frame.extension.contents.type == _METADATA:  # asked before the first call
        version = frame.extension.contents.metadata.contents.version
        version.major, version.minor = _VERSION
        return None
    if frame.stage != _EXECUTE:
        return None
    try:
        function_number, *things = [frame.numbers.items[i].contents.value[0] for i in range(frame.numbers.size)]
        operands = [None if operand.dtype == bool else operand for operand in _arrays(frame.operands)]
        _functions[function_number](_arrays(frame.results), *map(_thing, things), *operands)
    except BaseException as error:  # it becomes XLA's, whose callers see it
        code = next((code for kind, code in _CODES.items() if isinstance(error, kind)), _INTERNAL)
        text = f"{type(error).__name__}: {error}".encode()
        failure = _Failure(ctypes.sizeof(_Failure), None, text, code)
        return frame.api.contents.make_error(ctypes.byref(failure))
    return None


jax.ffi.register_ffi_target(TARGET, jax.ffi.pycapsule(_handler), platform="cpu")


def call(python, results, things, operands, has_side_effect=False):
    """Calls a function of `function`, now or in the program that is being traced.

    Args:
        python: the function.
        results: `jax.ShapeDtypeStruct`s of what it writes.
        things: objects that it gets, such as layers. Programs do not keep them alive.
        operands: arrays, or None. Under `vmap` all get, and all results have, an axis more in front.
        has_side_effect: True for a call that must take place once, whether its results are used or not.
    """
    numbers = {f"thing{i}": np.int64(_number_of(thing)) for i, thing in enumerate(things)}
    called = jax.ffi.ffi_call(TARGET, results, has_side_effect=has_side_effect, vmap_method="broadcast_all")
    operands = [_NOTHING if operand is None else operand for operand in operands]
    return called(*operands, function=np.int64(python.number), **numbers)
