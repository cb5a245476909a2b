"""The house style, held by tests: sizes, first lines, import time, names."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import vbx
from vbx.plugins import find_plugin, plugin_names

ROOT = Path(vbx.__file__).parent
FILES = sorted(p for p in ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_a_file_is_short_and_says_what_it_is_for(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 300
    assert ast.get_docstring(ast.parse(text)), "its first line says what it is for"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_every_module_imports(path: Path) -> None:
    """A neighbour's main program had a syntax error at its head."""
    import_module(".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"))


def test_no_public_function_bears_the_name_of_a_subpackage() -> None:
    assert not set(vbx.__all__) & {"cache", "extract", "heads", "commands", "recipes"}
    for name in vbx.__all__:
        assert getattr(vbx, name) is not None


def test_the_command_line_starts_without_the_heavy_packages() -> None:
    code = (
        "import sys, vbx.cli; "
        "heavy = {'torch', 'transformers', 'pandas', 'numpy', 'zarr', 'onnxruntime', 'sklearn'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_plugin_file_is_found_by_its_name_and_a_dotted_one_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mylab").mkdir()
    (tmp_path / "mylab" / "ravdess.py").write_text("order = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert find_plugin("reader", "vbx.extract.readers", "mylab.ravdess").order == 1
    assert find_plugin("encoder", "vbx.extract.encoders", "noise").__name__ == "vbx.extract.encoders.noise"
    assert not any(name.startswith("_") for name in plugin_names("vbx.extract.encoders"))
    with pytest.raises(LookupError, match="did you mean 'noise'"):
        find_plugin("encoder", "vbx.extract.encoders", "noize")


def test_no_file_of_the_project_holds_a_path_of_a_machine_or_the_host_of_a_registry() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT.parent, capture_output=True, text=True, check=False).stdout
    marks = ["/" + "work/", "/" + "root/", "pypi" + ".org", "files.python" + "hosted", "download.py" + "torch"]
    for name in listed.splitlines():
        path = ROOT.parent / name
        if path.is_file() and path.suffix not in {".parquet", ".png"} and path.name != "LICENSE":
            text = path.read_text(encoding="utf-8", errors="ignore")
            assert not [mark for mark in marks if mark in text], name
