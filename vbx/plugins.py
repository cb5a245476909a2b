"""Finding plugins: a bare name is one of our own files, a dotted name is an import path."""

import importlib
import pkgutil
from types import ModuleType

from vbx.errors import UnknownName


def plugin_names(package: str) -> list[str]:
    """Names of the plugins in one of our packages: its files, without those that begin with `_`.

    Examples:
        >>> "noise" in plugin_names("vbx.extract.encoders")
        True
    """
    paths = importlib.import_module(package).__path__
    return sorted(m.name for m in pkgutil.iter_modules(paths) if not m.name.startswith("_"))


def find_plugin(kind: str, package: str, name: str) -> ModuleType:
    """Import a plugin.

    Args:
        kind: what it is, for the error (`encoder`, `reader`)
        package: our package of that kind
        name: `noise` for our own file, `mylab.hubert` for anybody else's module

    Raises:
        UnknownName: if there is no such module
    """
    ours = plugin_names(package)
    if name in ours:
        return importlib.import_module(f"{package}.{name}")
    if "." in name:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            # Only the plugin's own absence is the user's typo; a missing import inside it is not.
            if error.name is None or not (name + ".").startswith(error.name + "."):
                raise
    raise UnknownName(kind, name, ours)
