"""The files of an ONNX model in audonnx's layout, read without making any object that they name."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from vbx.errors import CheckpointError
from vbx.extract.weights import inside

MODEL_CLASS = re.compile(r"\$(audonnx:)?audonnx\.core\.model\.Model(==[\w.+-]+)?")
"""The one class a description may name: `$audonnx.core.model.Model==0.3.2`."""


@dataclass(frozen=True)
class OnnxFiles:
    """An ONNX model on disk.

    Attributes:
        model: the `.onnx` file
        description: the `.yaml` file beside it, if there is one
        labels: names of the columns of its outputs, as far as the description gives them; the key is `""` where it
            gives one list for the only output
    """

    model: Path
    description: Path | None = None
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def main(self) -> Path:
        """The file that stands for them all: the description, or the model if it has none."""
        return self.description or self.model


def find_onnx(path: Path) -> OnnxFiles | None:
    """Find the ONNX model at a path.

    Args:
        path: a folder with `model.yaml`, `model.onnx` or a single `.onnx` file; or one of those files

    Returns:
        its files, or None if no ONNX model is there

    Raises:
        CheckpointError: if the description asks for code, or names a file that is not there or lies elsewhere
    """
    if path.is_dir():
        candidates = [path / "model.yaml", path / "model.onnx", *sorted(path.glob("*.onnx"))]
        found = [p for p in candidates if p.is_file()]
        if not found:
            return None
        if found[0].stem != "model" and len(found) > 1:
            names = ", ".join(p.name for p in found)
            raise CheckpointError(f"{str(path)!r} holds several ONNX models ({names}); name one of the files")
        path = found[0]
    if path.suffix == ".onnx" and path.is_file():
        description = path.with_suffix(".yaml")
        return _read_description(description) if description.is_file() else OnnxFiles(path)
    return _read_description(path) if path.suffix in (".yaml", ".yml") and path.is_file() else None


def external_files(model: Path) -> list[Path]:
    """The files beside a `.onnx` file that hold tensors of it.

    Raises:
        CheckpointError: if the file is not an ONNX model, or such a file is not there or lies elsewhere
    """
    import onnx  # late: needed only to take a digest
    from google.protobuf.message import DecodeError

    try:
        proto = onnx.load(str(model), load_external_data=False)
    except DecodeError as error:
        raise CheckpointError(f"{str(model)!r} is not an ONNX model ({error})") from error
    names = {entry.value for tensor in _tensors(proto) for entry in tensor.external_data if entry.key == "location"}
    return [inside(model.parent, name, model) for name in sorted(names)]


def _tensors(message: Any) -> list[Any]:
    """Every tensor inside a protobuf message of ONNX, sub-graphs and functions included."""
    found = []
    for descriptor, value in message.ListFields():
        if descriptor.message_type is None:
            continue
        for item in value if hasattr(value, "__len__") else [value]:
            found += [item] if descriptor.message_type.name == "TensorProto" else _tensors(item)
    return found


def _read_description(path: Path) -> OnnxFiles:
    """Read audonnx's YAML as plain data: its own loader imports whatever class a file names."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date or a number that is none, endless brackets
        raise CheckpointError(f"{str(path)!r} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or len(content) != 1:
        raise CheckpointError(f"{str(path)!r} does not describe one audonnx model")
    ((name, values),) = content.items()
    if not MODEL_CLASS.fullmatch(str(name)) or not isinstance(values, dict):
        raise CheckpointError(f"{str(path)!r} asks for {str(name)!r}; vbx reads audonnx.core.model.Model and no other")
    transform = values.get("transform")
    if transform and not (isinstance(transform, dict) and not any(transform.values())):
        wanted = next(iter(transform)) if isinstance(transform, dict) else transform
        raise CheckpointError(
            f"{str(path)!r} transforms its input by {str(wanted)!r}; that would run code named in a model file, so vbx "
            "takes only models that see the waveform itself"
        )
    model = inside(path.parent, str(values.get("path", "")), path)
    return OnnxFiles(model, path, _read_labels(path, values.get("labels")))


def _read_labels(path: Path, labels: object) -> dict[str, tuple[str, ...]]:
    by_output = labels if isinstance(labels, dict) else {"": labels}
    read = {}
    for output, names in by_output.items():
        if names is None:
            continue
        if not isinstance(names, list) or any(isinstance(n, dict | list) for n in names):
            raise CheckpointError(f"{str(path)!r}: labels of output {output!r} are not a list of names")
        read[str(output)] = tuple(str(n) for n in names)
    return read
