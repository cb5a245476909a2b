"""The kernel's library: found, loaded once, and called through ctypes, which lets other threads run meanwhile."""

import ctypes
import os
from ctypes import POINTER, c_char_p, c_double, c_int32, c_int64, c_uint32, c_void_p
from dataclasses import dataclass
from functools import cache
from typing import Any

from vbx.errors import DeviceError
from vbx.heads.native.build import find_compiler, library_of, list_paths

VARIABLE = "VBX_KERNEL"
"""Environment variable that picks a path by name (`avx512`, `avx2`, `portable`), or `none`: torch trains."""


class CLayer(ctypes.Structure):
    """`VbxLayer` of kernel/interface.h."""

    _fields_ = [
        *((name, c_int64) for name in ("width_in", "width_out", "weight", "bias", "gain", "shift", "stride")),
        *((name, c_int32) for name in ("source", "active", "judges")),
    ]


class CTask(ctypes.Structure):
    """`VbxTask`."""

    _fields_ = [
        *((name, c_int32) for name in ("first", "layer", "loss", "sigmoid", "columns", "main", "replace")),
        *((name, c_double) for name in ("gamma", "factor")),
    ]


class CRun(ctypes.Structure):
    """`VbxRun`."""

    _fields_ = [
        *((name, c_int64) for name in ("size", "batch", "weighers")),
        *((name, c_int32) for name in ("layers", "tasks", "activation", "rule", "weighting", "is_double")),
        ("dropout_key", c_uint32),
        *((name, c_double) for name in ("dropout", "lr", "uncertainty_lr", "discriminator_lr")),
        *((name, c_double) for name in ("weight_decay", "momentum")),
    ]


class CSplit(ctypes.Structure):
    """`VbxSplit`."""

    _fields_ = [
        ("x", c_void_p),
        *((name, c_int64) for name in ("rows", "stride")),
        *((name, POINTER(c_void_p)) for name in ("truth", "weight", "limits")),
    ]


class CShare(ctypes.Structure):
    """`VbxShare`."""

    _fields_ = [("loss", c_double), ("back", c_double)]


_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "vbx_path": (c_char_p, ()),
    "vbx_best": (c_char_p, ()),
    "vbx_open": (c_void_p, (POINTER(CRun), POINTER(CLayer), POINTER(CTask), c_void_p)),
    "vbx_close": (None, (c_void_p,)),
    "vbx_train": (None, (c_void_p, POINTER(CSplit), POINTER(CShare), c_void_p, c_int64, c_void_p)),
    "vbx_predict": (None, (c_void_p, POINTER(CSplit), POINTER(c_void_p))),
    "vbx_numbers": (None, (c_void_p, c_void_p)),
}


@dataclass(frozen=True)
class Kernel:
    """The kernel, or why there is none.

    Attributes:
        path: instructions it was built for: `avx512`, `avx2` or `portable`; empty if there is none
        library: functions of kernel/interface.h; None if there is none
        missing: what is missing, and the way out; empty if nothing is
    """

    path: str
    library: Any
    missing: str = ""


def find_kernel() -> Kernel:
    """The fastest kernel that is built and that this processor can run.

    Raises:
        DeviceError: if the environment asks for one that is not there
    """
    return _find(os.environ.get(VARIABLE, ""))


@cache
def _find(asked: str) -> Kernel:
    known = [*list_paths(), "none"]
    if asked and asked not in known:
        raise DeviceError(f"{VARIABLE} is {asked!r}; it must be one of {', '.join(known)}, or not set")
    if asked == "none":
        return Kernel("", None, f"{VARIABLE} is 'none'")
    portable = _load("portable")
    if portable is None:
        return _without(asked)
    best = portable.vbx_best().decode()
    usable = known[known.index(best) : -1]
    if asked and asked not in usable:
        raise DeviceError(f"{VARIABLE} asks for {asked!r}, but this processor has no more than {best!r}")
    for path in [asked] if asked else usable:
        library = _load(path)
        if library is not None:
            slower = f"{best} is not built: run `python -m vbx.heads.native.build`" if path != (asked or best) else ""
            return Kernel(path, library, slower)
    return _without(asked)


def _without(asked: str) -> Kernel:
    if asked:
        raise DeviceError(f"{VARIABLE} asks for {asked!r}, which is not built; run `python -m vbx.heads.native.build`")
    first = "" if find_compiler() else "install a C++ compiler (g++ or clang++), then "
    return Kernel("", None, f"the kernel is not built: {first}run `python -m vbx.heads.native.build`")


def _load(path: str) -> Any:
    """The library of a path with its functions declared; None if it is not there or cannot be loaded."""
    try:
        library = ctypes.CDLL(str(library_of(path)))
    except OSError:
        return None
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
