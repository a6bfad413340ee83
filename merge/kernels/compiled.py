"""How this floor's loops are compiled, and loaded again without the compiler.

Numba takes most of a second and 100 MB to be imported, LLVM's bindings a twentieth of that. So a
loop that has been compiled once is kept as machine code, and LLVM alone loads it. A file of code
is of one loop, one tuple of argument types, one processor, one numba and one state of this
folder's sources: whatever else would give other code gives another name (issue 18).
"""

import ctypes
import hashlib
import os
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import FunctionType
from typing import Any

import llvmlite.binding as llvm
import numpy as np

_HASH_BYTES = 32
_lock = threading.Lock()
Address = ctypes.c_void_p
_Run = Callable[..., int]


class Loop:
    """One compiled function of integers and C-contiguous arrays.

    Called, it releases the interpreter's lock, and gives the function's integer or 0. From another
    loop it is called without any of that.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        assert isinstance(function, FunctionType)
        self._function = function
        self._loaded: dict[tuple[Any, ...], _Run] = {}

    def __call__(self, *arguments: Any) -> int:
        """Run it; compile it where no code of these types is there yet."""
        result = _Result()
        types: list[Any] = []
        values: list[Any] = [ctypes.addressof(result), ctypes.addressof(result) + 8]
        for argument in arguments:
            if isinstance(argument, np.ndarray):
                assert argument.flags.c_contiguous
                types.append((argument.dtype, argument.ndim))
                values += (None, None, argument.size, argument.itemsize, argument.ctypes.data)
                values += argument.shape + argument.strides
            else:
                types.append(None)
                values.append(int(argument))
        key = tuple(types)
        run = self._loaded.get(key) or self._load(key)
        run(*values)
        return result.value

    def _load(self, types: tuple[Any, ...]) -> _Run:
        with _lock:
            if types not in self._loaded:
                name = f"{self._function.__name__}-{_digest(types)}.loop"
                code = _read(name)
                if code is None:
                    code = self._compile(types)
                    _write(name, code)
                self._loaded[types] = _link(code, types)
            return self._loaded[types]

    def _compile(self, types: Sequence[Any]) -> bytes:
        """Machine code, after the name of its function and a 0."""
        from numba import types as numba_types
        from numba.np.numpy_support import from_dtype

        signature = tuple(
            numba_types.int64
            if kind is None
            else numba_types.Array(from_dtype(kind[0]), kind[1], "C")
            for kind in types
        )
        compiler = self.compiler()
        compiler.compile(signature)
        result = compiler.overloads[signature]
        name = result.fndesc.llvm_func_name.encode()
        return name + b"\0" + result.library._get_compiled_object()

    def compiler(self, inlined: bool = False) -> Any:
        """Numba's own function for this one, for itself and for the loops that call it.

        Args:
            inlined: into each caller, whose loop over entries only then becomes vector
                instructions.
        """
        import numba

        used = {
            name: value.compiler(inlined=True) if isinstance(value, Loop) else value
            for name, value in self._function.__globals__.items()
            if name in self._function.__code__.co_names
        }
        function = FunctionType(self._function.__code__, used, self._function.__name__)
        # The code must need nothing of numba when it runs: no memory of its own, no Python errors.
        plain: Any = {"_nrt": False, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
        return numba.njit(error_model="numpy", forceinline=inlined, **plain)(function)


class _Result(ctypes.Structure):
    """What a loop returns, and where it would put a Python error."""

    _fields_ = (("value", ctypes.c_int64), ("error", Address))


def compiled(function: Callable[..., Any]) -> Any:
    """Compile at first use; keep the code on disk where there is a place for it."""
    return Loop(function)


def _link(code: bytes, types: Sequence[Any]) -> _Run:
    """The function of a piece of machine code."""
    name, _, machine_code = code.partition(b"\0")
    linker = _linker()
    linker.add_object_file(llvm.object_file.ObjectFileRef.from_data(machine_code))
    linker.finalize_object()
    parts: list[Any] = [Address, Address]
    for kind in types:
        numbers = 1 if kind is None else 2 * kind[1]
        parts += [] if kind is None else [Address, Address, *2 * [ctypes.c_int64], Address]
        parts += [ctypes.c_int64] * numbers
    address = linker.get_function_address(name.decode())
    function = ctypes.CFUNCTYPE(ctypes.c_int32, *parts)(address)
    _kept.append(linker)
    return function


_kept: list[Any] = []
"""Code goes with what has linked it."""


def _linker() -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine()
    return llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)


def _digest(types: Sequence[Any]) -> str:
    shown = [None if kind is None else (kind[0].str, kind[1]) for kind in types]
    return hashlib.sha256(f"{_code_base()} {shown}".encode()).hexdigest()[:32]


@cache
def _code_base() -> str:
    """What all code depends on: the sources, the compiler, and the processor."""
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    processor = f"{llvm.get_host_cpu_name()} {llvm.get_host_cpu_features().flatten()}"
    return f"{digest.hexdigest()} {version('numba')} {version('llvmlite')} {processor}"


def _folders() -> list[Path]:
    """Where code may be, the first that can be written to first."""
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    if chosen:
        return [Path(chosen)]
    own = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return [Path(__file__).parent / "__pycache__", own / "safepatching"]


def _read(name: str) -> bytes | None:
    for folder in _folders():
        with suppress(OSError):
            content = (folder / name).read_bytes()
            digest, code = content[:_HASH_BYTES], content[_HASH_BYTES:]
            # Half a file would end the process, not the call.
            if hashlib.sha256(code).digest() == digest:
                return code
    return None


def _write(name: str, code: bytes) -> None:
    for folder in _folders():
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
                file.write(hashlib.sha256(code).digest() + code)
            Path(file.name).replace(folder / name)
            return
