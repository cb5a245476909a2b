"""Build hook: the native kernel goes into the wheel, or beside its sources for an editable install.

Without a compiler the package installs all the same, torch trains, and `vbx doctor` says what is missing.
"""

import importlib.util
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class KernelHook(BuildHookInterface):  # type: ignore[type-arg]
    """Runs vbx/heads/native/build.py before files are collected."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build, and say which files belong to the wheel."""
        if self.target_name != "wheel":
            return
        libraries, trouble = _load_builder(Path(self.root)).build_kernel()
        if trouble:
            self.app.display_warning(f"vbx: no native kernel for heads ({trouble}); torch trains them, more slowly")
        if libraries:
            # The libraries are called through ctypes: any Python 3 on this kind of machine can use them.
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
            build_data["artifacts"] += [library.relative_to(self.root).as_posix() for library in libraries]


def _load_builder(root: Path) -> Any:
    """The module that builds, without importing vbx, whose dependencies are not there yet."""
    spec = importlib.util.spec_from_file_location("vbx_build", root / "vbx/heads/native/build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
