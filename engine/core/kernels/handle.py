"""How a kernel is handed a book's tables: by one address, where their arrays are described side by side.

numba takes a tuple apart when a kernel is called, array by array, and hands each on as seven values: eleven arrays cost
a call three microseconds, and each kernel a part of its compilation. Here a call hands over one pointer, behind which
stands of each array what numba's own array structure holds, and a kernel reads of it what it uses.

Nothing there may change while a kernel runs, so what was read once need not be read again (``invariant.load``); the
arrays themselves are written to as ever.
"""

from __future__ import annotations

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

# Behind the address stand int64 words. Of an array: the bytes of an item, how many items, where they are; then its
# length along each dimension, and the steps in bytes.
_ITEM_BYTES, _ITEMS, _DATA, _LENGTHS = 0, 1, 2, 3
_WORD = ir.IntType(64)


class HandleType(types.Type):  # type: ignore[misc]  # numba has no types
    """What kernels take a handle for: its arrays by name, and where the description of each begins."""

    def __init__(self, name: str, arrays: dict[str, types.Array]) -> None:
        super().__init__(name)
        self.arrays = arrays
        sizes = [_LENGTHS + 2 * array.ndim for array in arrays.values()]
        self.begins = dict(zip(arrays, np.cumsum([0, *sizes]).tolist(), strict=False))
        self.dtypes = {name: as_dtype(array.dtype) for name, array in arrays.items()}


class Handle:
    """Arrays that a kernel takes as one argument and names as attributes; a subclass says which, in ``_numba_type_``.

    Raises ValueError for an array of another type or layout than said: kernels do not look.
    """

    __slots__ = ("_words", "address")
    _numba_type_: ClassVar[HandleType]

    def __init__(self, **arrays: npt.NDArray[Any]) -> None:
        dtypes, words = self._numba_type_.dtypes, list[int]()
        for name, kind in self._numba_type_.arrays.items():
            array = arrays[name]
            flags = array.flags
            is_whole = flags.c_contiguous if kind.layout == "C" else flags.f_contiguous
            if not (is_whole and flags.writeable and array.ndim == kind.ndim and array.dtype == dtypes[name]):
                raise ValueError(f"{name}: {typeof(array)} where {kind} is needed")
            setattr(self, name, array)
            words += array.itemsize, array.size, address_of(array), *array.shape, *array.strides
        self._words = np.array(words, dtype=np.int64)
        self.address = address_of(self._words)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays by their names."""
        return {name: getattr(self, name) for name in self._numba_type_.arrays}

    def replaced(self, **arrays: npt.NDArray[Any]) -> Self:
        """Return a handle of the same arrays but for some."""
        return type(self)(**{**self.arrays(), **arrays})


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
    """Generate the reading of one array's description."""
    kind, begin = handle.arrays[name], handle.begins[name]
    words = builder.bitcast(value, _WORD.as_pointer())
    once = builder.module.add_metadata([])

    def word(number: int) -> Any:
        loaded = builder.load(builder.gep(words, [ir.Constant(ir.IntType(32), begin + number)]))
        loaded.set_metadata("invariant.load", once)
        return loaded

    array = context.make_array(kind)(context, builder)
    array.itemsize = word(_ITEM_BYTES)
    array.nitems = word(_ITEMS)
    array.data = builder.inttoptr(word(_DATA), array.data.type)
    array.shape = cgutils.pack_array(builder, [word(_LENGTHS + axis) for axis in range(kind.ndim)])
    array.strides = cgutils.pack_array(builder, [word(_LENGTHS + kind.ndim + axis) for axis in range(kind.ndim)])
    # Nobody counts references in a kernel (``compile.py``).
    array.meminfo = cgutils.get_null_value(array.meminfo.type)
    array.parent = cgutils.get_null_value(array.parent.type)
    return array._getvalue()


@unbox(HandleType)
def unbox_handle(_kind: HandleType, value: Any, context: Any) -> Any:
    """Generate the reading of a handle's address."""
    address = context.pyapi.object_getattr_string(value, "address")
    pointer = context.builder.inttoptr(context.pyapi.long_as_longlong(address), ir.IntType(8).as_pointer())
    context.pyapi.decref(address)
    return NativeValue(pointer)
