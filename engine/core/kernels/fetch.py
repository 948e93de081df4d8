"""Asking for memory before it is needed.

Rows that a price concerns lie anywhere in a gigabyte. A processor that waits for each line of memory in turn does
little else; one that is told of thirty at once waits about once for all. A wrong address costs nothing and changes
nothing: no value is read.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic


def _fetch_code(_typing: Any, array: Any, offset: Any) -> Any:
    """Generate ``fetch(array, offset)``: the memory ``offset`` bytes from where the array begins will be written to."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        byte_pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        address = builder.gep(builder.bitcast(data, byte_pointer), [arguments[1]])
        kind = ir.FunctionType(ir.VoidType(), [byte_pointer, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch")
        # To write, keep in all caches, data.
        builder.call(function, [address, number(1), number(3), number(1)])
        return context.get_dummy_value()

    return types.void(array, types.int64), generate


fetch = intrinsic(_fetch_code)
