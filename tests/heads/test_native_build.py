"""Building the native kernel: with a compiler, without, with one that fails."""

import subprocess

import pytest

from vbx.heads.native import build
from vbx.heads.native.build import build_kernel, find_compiler


@pytest.mark.slow
@pytest.mark.skipif(not find_compiler(), reason="no C++ compiler")
@pytest.mark.parametrize("path", list(build.list_paths()))
def test_sources_compile_without_a_warning(path, tmp_path):
    flags = [flag for flag in build.FLAGS if flag not in ("-w", "-shared")]
    flags += [*build.list_paths()[path], "-Wall", "-Wextra", "-Werror"]
    command = [*find_compiler(), *flags, "-c", str(build.SOURCES / "interface.cpp"), "-o", str(tmp_path / "kernel.o")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_without_a_compiler_building_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    libraries, trouble = build_kernel(tmp_path)
    assert libraries == [] and "no C++ compiler" in trouble


def test_a_compiler_that_fails_is_quoted(tmp_path, monkeypatch):
    bad = tmp_path / "badc++"
    bad.write_text("#!/bin/sh\necho 'cannot do that' >&2\nexit 1\n")
    bad.chmod(0o755)
    monkeypatch.setenv("CXX", str(bad))
    libraries, trouble = build_kernel(tmp_path)
    assert libraries == [] and "cannot do that" in trouble and not list(tmp_path.glob("*.so"))


def test_other_sources_give_another_library(tmp_path, monkeypatch):
    before = build.library_of("portable")
    (tmp_path / "interface.cpp").write_text("int x;")
    monkeypatch.setattr(build, "SOURCES", tmp_path)
    assert build.library_of("portable") != before
