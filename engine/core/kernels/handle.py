"""How a kernel is handed a book's tables: by one address, where their arrays are described side by side.

numba takes a tuple apart when a kernel is called, array by array, and hands each on as seven values: eleven arrays cost
a call three microseconds, and each kernel a part of its compilation. Here a call hands over one pointer, behind which
stands where each array is and how long; a kernel reads of it what it uses. What never changes - the bytes of an item,
the columns of a table - it knows when it is compiled.

Nothing there may change while a kernel runs, so what was read once need not be read again (``invariant.load``); the
arrays themselves are written to as ever.
"""

from __future__ import annotations

from functools import partial, reduce
from itertools import accumulate, count
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import typeof, types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.core.typing.templates import AttributeTemplate, infer_getattr
from numba.extending import NativeValue, lower_getattr_generic, register_model, unbox
from numba.np.numpy_support import as_dtype

_WORD = ir.IntType(64)
# Lengths along the dimensions of an array; None: as long as it happens to be.
Shape = tuple[int | None, ...]


class HandleType(types.Type):  # type: ignore[misc]  # numba has no types
    """What kernels take a handle for: its arrays by name, their shapes, and where the words about each begin.

    Behind the address stand int64 words: of each array where its items are, then those of its lengths that may change.
    """

    def __init__(self, name: str, arrays: dict[str, tuple[types.Array, Shape]]) -> None:
        super().__init__(name)
        self.arrays = {name: array for name, (array, _) in arrays.items()}
        self.shapes = {name: shape for name, (_, shape) in arrays.items()}
        self.dtypes = {name: as_dtype(array.dtype) for name, array in self.arrays.items()}
        sizes = [1 + shape.count(None) for shape in self.shapes.values()]
        self.begins = dict(zip(arrays, accumulate(sizes, initial=0), strict=False))


class Handle:
    """Arrays that a kernel takes as one argument and names as attributes; a subclass says which, in ``_numba_type_``.

    Raises ValueError for an array of another type or layout than said: kernels do not look.
    """

    __slots__ = ("_words", "address")
    _numba_type_: ClassVar[HandleType]

    def __init__(self, **arrays: npt.NDArray[Any]) -> None:
        kinds, words = self._numba_type_, list[int]()
        for name, kind in kinds.arrays.items():
            array, shape, flags = arrays[name], kinds.shapes[name], arrays[name].flags
            is_whole = flags.c_contiguous if kind.layout == "C" else flags.f_contiguous
            is_long = array.ndim == kind.ndim and all(map(is_length, array.shape, shape))
            if not (is_whole and flags.writeable and is_long and array.dtype == kinds.dtypes[name]):
                raise ValueError(f"{name}: {typeof(array)} of {array.shape} where {kind} of {shape} is needed")
            setattr(self, name, array)
            words.append(address_of(array))
            words += [length for length, known in zip(array.shape, shape, strict=True) if known is None]
        self._words = np.array(words, dtype=np.int64)
        self.address = address_of(self._words)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays by their names."""
        return {name: getattr(self, name) for name in self._numba_type_.arrays}

    def replaced(self, **arrays: npt.NDArray[Any]) -> Self:
        """Return a handle of the same arrays but for some."""
        return type(self)(**{**self.arrays(), **arrays})


def is_length(length: int, known: int | None) -> bool:
    """Return whether a dimension is as long as it has to be."""
    return known is None or length == known


def address_of(array: npt.NDArray[Any]) -> int:
    """Return where an array's first byte is."""
    address: int = array.__array_interface__["data"][0]
    return address


register_model(HandleType)(models.OpaqueModel)


@infer_getattr
class HandleAttributes(AttributeTemplate):  # type: ignore[misc]  # numba has no types
    """Types what a kernel names of a handle."""

    key = HandleType

    def generic_resolve(self, handle: HandleType, name: str) -> types.Array | None:
        """Return the type of an array, or None where there is none of this name."""
        return handle.arrays.get(name)


@lower_getattr_generic(HandleType)
def load_array(context: Any, builder: Any, handle: HandleType, value: Any, name: str) -> Any:
    """Generate the reading of what a kernel has to know of one array."""
    kind, words = handle.arrays[name], builder.bitcast(value, _WORD.as_pointer())
    once, numbers = builder.module.add_metadata([]), count(handle.begins[name])

    def next_word() -> Any:
        loaded = builder.load(builder.gep(words, [ir.Constant(ir.IntType(32), next(numbers))]))
        loaded.set_metadata("invariant.load", once)
        return loaded

    array = context.make_array(kind)(context, builder)
    array.data = builder.inttoptr(next_word(), array.data.type)
    lengths = [next_word() if known is None else known for known in handle.shapes[name]]
    strides, size = [0] * kind.ndim, handle.dtypes[name].itemsize
    array.itemsize = ir.Constant(_WORD, size)
    # The last dimension of a table in C's order lies closest, in Fortran's the first.
    for axis in range(kind.ndim) if kind.layout == "F" else reversed(range(kind.ndim)):
        strides[axis], size = size, product(builder, size, lengths[axis])
    array.nitems = as_word(reduce(partial(product, builder), lengths))
    array.shape = cgutils.pack_array(builder, [as_word(length) for length in lengths])
    array.strides = cgutils.pack_array(builder, [as_word(stride) for stride in strides])
    # Nobody counts references in a kernel (``compile.py``).
    array.meminfo = cgutils.get_null_value(array.meminfo.type)
    array.parent = cgutils.get_null_value(array.parent.type)
    return array._getvalue()


def as_word(number: Any) -> Any:
    """Return a number that is known now, or only once the kernel runs, as the latter."""
    return ir.Constant(_WORD, number) if isinstance(number, int) else number


def product(builder: Any, left: Any, right: Any) -> Any:
    """Return the product of two such numbers."""
    both_known = isinstance(left, int) and isinstance(right, int)
    return left * right if both_known else builder.mul(as_word(left), as_word(right))


@unbox(HandleType)
def unbox_handle(_kind: HandleType, value: Any, context: Any) -> Any:
    """Generate the reading of a handle's address."""
    address = context.pyapi.object_getattr_string(value, "address")
    pointer = context.builder.inttoptr(context.pyapi.long_as_longlong(address), ir.IntType(8).as_pointer())
    context.pyapi.decref(address)
    return NativeValue(pointer)
