"""openSMILE's configuration of a feature set, cut down to what some of its levels need.

The package has a graph compute every level of a set, whichever is asked for: of the 72 components of eGeMAPSv02, 19 do
nothing for the functionals (those of other sets that it builds upon), and 41 nothing for the low-level descriptors.
"""

import re
from collections.abc import Collection
from pathlib import Path

INCLUDE = re.compile(r"\\\{([^\\{}]+)\}")
BY_OPTION = re.compile(r"(\\\{\\cm\[\w+\{)([^{}]+)(\}.*)")
INSTANCE = re.compile(r"instance\[(\w+)\]\.type\s*=")
SECTION = re.compile(r"\[(\w+):\w+\]")
LEVELS = re.compile(r"(\w*reader|writer)\.dmLevel\s*=(.*)")


def flatten_config(path: Path) -> list[str]:
    """The lines of a configuration, its includes put in place.

    Those that an option may name are left for the library, their default as an absolute path.
    """
    lines = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if include := INCLUDE.fullmatch(line.strip()):
            lines += flatten_config(path.parent / include[1])
            continue
        option = BY_OPTION.fullmatch(line.strip())
        if option and (path.parent / option[2]).is_file():
            line = f"{option[1]}{(path.parent / option[2]).resolve()}{option[3]}"
        lines.append(line)
    return lines


def cut_config(lines: Collection[str], levels: Collection[str]) -> str:
    """A flat configuration without the components that write to none of the levels, nor to what they are made from.

    Examples:
        >>> print(cut_config(["instance[a].type = cA", "instance[b].type=cB", "[a:cA]", "writer.dmLevel = x"], ["x"]))
        instance[a].type = cA
        instance[b].type=cB
        [a:cA]
        writer.dmLevel = x
        >>> print(cut_config(["instance[a].type = cA", "[a:cA]", "writer.dmLevel = x"], ["y"]))
        [a:cA]
        writer.dmLevel = x
    """
    reads: dict[str, set[str]] = {}
    writes: dict[str, set[str]] = {}
    section = ""
    for line in map(str.strip, lines):
        if found := SECTION.match(line):
            section = found[1]
        elif found := LEVELS.match(line):
            where = writes if found[1] == "writer" else reads
            where.setdefault(section, set()).update(name.strip() for name in found[2].split(";"))
    needed, before = set(levels), -1
    while len(needed) > before:
        before = len(needed)
        for component, written in writes.items():
            if written & needed:
                needed |= reads.get(component, set())
    # What writes nowhere, as the memory itself, is not judged.
    idle = {component for component, written in writes.items() if not written & needed}
    kept = []
    for line in lines:
        instance = INSTANCE.match(line.strip())
        if not (instance and instance[1] in idle):
            kept.append(line)
    return "\n".join(kept)
