"""Build the kernel: the same C++ sources once for each set of instructions, each a library of its own.

`pip install` runs this (hatch_build.py); `python -m vbx.heads.native.build` does it later, once a compiler is there.
It imports nothing of vbx, for at that time vbx is not installed yet.
"""

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

FOLDER = Path(__file__).parent
SOURCES = FOLDER / "kernel"
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-std=c++17", "-O3", "-shared", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-w")
"""No -ffast-math: it would let the compiler assume that nothing is nan, and a run that diverges would go unnoticed."""
AVX2 = ("-mavx2", "-mfma")
AVX512 = (*AVX2, "-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mprefer-vector-width=512")
SECONDS = 300
"""Longest that a compiler is waited for."""


def list_paths() -> Mapping[str, tuple[str, ...]]:
    """Flags of each set of instructions that this kind of processor may have, fastest first."""
    if platform.machine().lower() in ("x86_64", "amd64"):
        return {"avx512": AVX512, "avx2": AVX2, "portable": ()}
    return {"portable": ()}


def library_of(path: str, folder: Path = FOLDER) -> Path:
    """Where the library of a set of instructions is, or would be; other sources give another name."""
    digest = hashlib.sha256(repr((FLAGS, sorted(list_paths().items()))).encode())
    for source in sorted(s for s in SOURCES.iterdir() if s.suffix in (".cpp", ".hpp", ".h")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return folder / f"kernel-{path}-{digest.hexdigest()[:12]}.so"


def find_compiler() -> list[str]:
    """Command of a C++ compiler, as words: `$CXX`, or the first that is there; none if there is none."""
    asked = shlex.split(os.environ.get("CXX", ""))
    commands = [asked] if asked else [[name] for name in COMPILERS]
    return next((command for command in commands if shutil.which(command[0])), [])


def build_kernel(folder: Path = FOLDER) -> tuple[list[Path], str]:
    """Build what is not there yet.

    Args:
        folder: where libraries go

    Returns:
        the libraries that are there now, and what went wrong, if anything
    """
    wanted = {path: library_of(path, folder) for path in list_paths()}
    missing = {path: library for path, library in wanted.items() if not library.is_file()}
    trouble = ""
    if missing:
        compiler = find_compiler()
        if compiler:
            trouble = _compile(compiler, missing)
        else:
            trouble = f"no C++ compiler: {os.environ.get('CXX') or ', '.join(COMPILERS)} cannot be found"
    there = [library for library in wanted.values() if library.is_file()]
    for old in set(folder.glob("kernel-*.so")) - set(wanted.values()):
        old.unlink(missing_ok=True)
    return there, trouble


def _compile(compiler: list[str], missing: Mapping[str, Path]) -> str:
    """Run the compiler once for each library, side by side; what went wrong."""
    flags, troubles = list_paths(), []
    with tempfile.TemporaryDirectory(dir=next(iter(missing.values())).parent, prefix=".kernel-") as aside:
        running = {}
        for path in missing:
            command = [*compiler, *FLAGS, *flags[path], str(SOURCES / "interface.cpp"), "-o", f"{aside}/{path}.so"]
            running[path] = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        for path, process in running.items():
            try:
                _, said = process.communicate(timeout=SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                said = f"no end after {SECONDS} s"
            if process.returncode == 0:
                os.replace(f"{aside}/{path}.so", missing[path])  # whole or not at all
            else:
                troubles.append(f"{path}: {said.strip().splitlines()[0] if said.strip() else 'failed'}")
    return f"{' '.join(compiler)} says of {'; '.join(troubles)}" if troubles else ""


if __name__ == "__main__":
    libraries, what = build_kernel()
    print(*(library.name for library in libraries), sep="\n")
    if what:
        sys.exit(f"the kernel is not whole, {what}")
