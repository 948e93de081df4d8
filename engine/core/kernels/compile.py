"""How kernels are compiled: which of them Python may call, and how they call each other.

numba links the code of whatever a kernel calls into that kernel, and what those call too, optimizes all of it again and
writes it out again: two thirds of the code that came out were copies. Here kernels call each other by name, as
functions of any compiled program do; only helpers small or hot enough to be inlined are linked. And only what Python
calls gets a wrapper that takes Python's objects apart.

Half of what it still takes is numba's own work in Python.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import cached_property
from typing import Any

from numba import njit, types
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.core.registry import CPUDispatcher

from engine.core.kernels.cache import CACHE_DIR, KernelCache


class Library(JITCodeLibrary):  # type: ignore[misc]  # numba has no types
    """The code of one kernel; ``calls`` has the kernels that it calls: name -> (module, function, types)."""

    def __init__(self, codegen: Any, name: str) -> None:
        super().__init__(codegen, name)
        self.calls: dict[str, tuple[str, str, tuple[Any, ...]]] = {}

    def add_linking_library(self, library: Any) -> None:
        """Make the code of a helper a part of this."""
        super().add_linking_library(library)
        self.calls |= getattr(library, "calls", {})


class KernelCompiler(Compiler):  # type: ignore[misc]  # numba has no types
    """numba's compiler, but that a function gets the same name in each process, and a library that knows its calls."""

    def _compile_core(self) -> Any:
        state = self.state
        place = f"{state.func_id.filename}:{state.func_id.firstlineno}"
        state.func_id.unique_id = zlib.crc32(place.encode())
        state.library = Library(state.targetctx.codegen(), state.func_id.func_qualname)
        state.library.enable_object_caching()
        return super()._compile_core()


class Kernel(CPUDispatcher):  # type: ignore[misc]  # numba has no types
    """A function of a module, compiled for the types that it is called with.

    Without references to count: that took two atomic additions for each array that a helper was handed, more than what
    most helpers do. The caller holds the arrays as long as the call lasts.
    """

    def __init__(self, function: Callable[..., Any], *, is_inlined: bool = False, has_wrapper: bool = True) -> None:
        options = {
            "nopython": True,
            "_nrt": False,
            "forceinline": is_inlined,
            "no_cpython_wrapper": not has_wrapper,
            "no_cfunc_wrapper": True,
        }
        super().__init__(function, targetoptions=options, pipeline_class=KernelCompiler)
        self.is_inlined = is_inlined
        self.named: dict[str, object] = {}
        if CACHE_DIR is not None:
            self._cache = KernelCache(function, CACHE_DIR)

    def get_call_template(self, args: tuple[Any, ...], kws: Any) -> Any:
        """Return how a call is typed: each constant as any number, or the kernel would be compiled again for each."""
        return super().get_call_template(tuple(map(types.unliteral, args)), kws)

    def get_overload(self, sig: tuple[Any, ...]) -> object:
        """Return what stands for a kernel in the code of another, where its call is noted; ``sig``: types it takes."""
        result = self.overloads[sig]
        if self.is_inlined:
            return result.entry_point
        name, library = result.fndesc.mangled_name, self.targetctx.active_code_library
        if name not in self.named:
            self.named[name] = object()
            self.targetctx.insert_user_function(self.named[name], result.fndesc, libs=())
        if isinstance(library, Library):
            library.calls[name] = (self.py_func.__module__, self.py_func.__name__, sig)
        return self.named[name]


class Subkernel(Kernel):
    """A kernel that only other kernels call."""

    def __init__(self, function: Callable[..., Any], *, is_inlined: bool = False) -> None:
        super().__init__(function, is_inlined=is_inlined, has_wrapper=False)

    def __call__(self, *args: Any) -> Any:
        """Call it through a kernel that does nothing else: a test wants to."""
        return self.caller(*args)

    @cached_property
    def caller(self) -> Any:
        """Return that kernel."""

        def call(*args: Any) -> Any:
            return self(*args)

        return njit(_nrt=False)(call)


def kernel(function: Callable[..., Any]) -> Any:
    """Compile what Python calls, in nopython mode; it may not make arrays."""
    return Kernel(function)


def inlined_kernel(function: Callable[..., Any]) -> Any:
    """Compile what Python calls, and what is worth inlining into the kernels that call it."""
    return Kernel(function, is_inlined=True)


def subkernel(function: Callable[..., Any]) -> Any:
    """Compile what only kernels call."""
    return Subkernel(function)


def inlined(function: Callable[..., Any]) -> Any:
    """Compile what only kernels call, and what is worth inlining into them."""
    return Subkernel(function, is_inlined=True)
