"""Weights on disk: the heads of many runs in one safetensors file, each with what is needed to use it."""

import hashlib
import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from vbx.cache.feature import Part
from vbx.cache.spec import EncoderSpec, canonical
from vbx.errors import CacheError
from vbx.heads.calibration import Calibration
from vbx.heads.head import Head
from vbx.heads.run import Run

Tensors = dict[str, NDArray[np.floating[Any]]]
_SCALER = ("centre", "spread")
_TOLD = ("run", "feature", "corpus", "vectors_key", "classes", "columns")
_LATER = ("calibration", "parts")
"""What heads of earlier versions do not have, and others only if it is known."""
_SHARED = ("columns", "parts")
"""What is the same for all runs on one feature: it is kept once, under its digest."""
_DTYPES = {"float32": "F32", "float64": "F64"}


def write_heads(path: Path, heads: Mapping[str, Head]) -> None:
    """Write heads into one file: tensors `KEY/trunk.0.weight`, and in its metadata what each head is.

    Args:
        path: a file that is not there yet
        heads: key of a run to its head
    """
    metadata: dict[str, str] = {}
    header: dict[str, Any] = {"__metadata__": metadata}
    pieces: list[NDArray[np.floating[Any]]] = []
    end = 0
    for key, head in heads.items():
        about, arrays = take_apart(head)
        for shared in set(_SHARED) & set(about):
            text = canonical(about.pop(shared)).decode()
            about[f"{shared}_digest"] = hashlib.sha256(text.encode()).hexdigest()
            metadata[about[f"{shared}_digest"]] = text
        metadata[key] = canonical(about).decode()
        for name, array in arrays.items():
            place = {
                "dtype": _DTYPES[array.dtype.name],
                "shape": array.shape,
                "data_offsets": [end, end + array.nbytes],
            }
            header[f"{key}/{name}"] = place
            pieces.append(array)
            end += array.nbytes
    with open(path, "wb") as file:
        file.write(_render(header))
        for array in pieces:
            file.write(array.data)


def read_head(path: Path, key: str) -> Head:
    """Read the head of one run.

    Raises:
        CacheError: if the file is damaged, or holds no such run
    """
    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            names = [name for name in file.keys() if name.startswith(key + "/")]
            arrays = {name.removeprefix(key + "/"): file.get_tensor(name) for name in names}
        if key not in metadata:
            raise CacheError(f"it holds no weights of run {key[:12]}")
        about = json.loads(metadata[key])
        for shared in _SHARED:
            if f"{shared}_digest" in about:
                about[shared] = json.loads(metadata[about.pop(f"{shared}_digest")])
        return put_together(about, arrays)
    except (SafetensorError, CacheError, KeyError, ValueError) as error:
        raise _damaged(path, str(error)) from error


def merge_heads(sources: Iterable[Path], target: Path) -> None:
    """Write the heads of several files into one, tensor by tensor, each run once.

    Args:
        sources: files of `write_heads`
        target: a file that is not there yet

    Raises:
        CacheError: if a source is damaged
    """
    header: dict[str, Any] = {"__metadata__": {}}
    spans: dict[Path, list[tuple[int, int]]] = {}
    end = 0
    for source in sources:
        theirs, start = _read_header(source)
        header["__metadata__"] |= theirs.pop("__metadata__", {})
        spans[source] = []
        for name, entry in sorted(theirs.items(), key=lambda item: item[1]["data_offsets"]):
            if name not in header:
                begin, stop = entry["data_offsets"]
                spans[source].append((start + begin, stop - begin))
                header[name] = {**entry, "data_offsets": [end, end + stop - begin]}
                end += stop - begin
    with open(target, "wb") as file:
        file.write(_render(header))
        for source, pieces in spans.items():
            with open(source, "rb") as theirs_file:
                for begin, size in pieces:
                    theirs_file.seek(begin)
                    file.write(theirs_file.read(size))


def check_heads(path: Path) -> None:
    """Make sure that a file of heads is whole, without reading the weights themselves.

    Raises:
        CacheError: if it is truncated or something else
        FileNotFoundError: if it is not there
    """
    _read_header(path)


def take_apart(head: Head) -> tuple[dict[str, Any], Tensors]:
    """A head as JSON and arrays; the JSON bears a digest of both."""
    arrays: Tensors = {name: np.ascontiguousarray(array) for name, array in head.state.items()}
    arrays |= {name: np.ascontiguousarray(getattr(head, name)) for name in _SCALER}
    about: dict[str, Any] = {
        "run": head.run.to_json(),
        "feature": head.feature,
        "corpus": head.corpus,
        "vectors_key": head.vectors_key,
        "classes": dict(head.classes),
        "columns": list(head.columns),
    }
    if head.calibration:
        about["calibration"] = head.calibration.to_json()
    if head.parts:
        about["parts"] = [_part_to_json(part) for part in head.parts]
    return {**about, "digest": _digest(about, arrays)}, arrays


def put_together(about: Mapping[str, Any], arrays: Tensors) -> Head:
    """The inverse of `take_apart`.

    Raises:
        CacheError: if JSON and arrays are not those of which the JSON bears the digest
    """
    told = {name: about[name] for name in _TOLD} | {name: about[name] for name in _LATER if name in about}
    if _digest(told, arrays) != about["digest"]:
        raise CacheError("it does not match its digest")
    return Head(
        run=Run.from_json(told["run"]),
        columns=tuple(told["columns"]),
        classes={task: tuple(names) for task, names in told["classes"].items()},
        state={name: array for name, array in arrays.items() if name not in _SCALER},
        centre=np.asarray(arrays["centre"], np.float64),
        spread=np.asarray(arrays["spread"], np.float64),
        vectors_key=told["vectors_key"],
        feature=told["feature"],
        corpus=told["corpus"],
        calibration=Calibration.from_json(told["calibration"]) if "calibration" in told else None,
        parts=tuple(_part_from_json(part) for part in told.get("parts", ())),
    )


def _part_to_json(part: Part) -> dict[str, Any]:
    return {"spec": part.spec.to_json(), "outputs": list(part.outputs), "encoder": part.encoder, "name": part.name}


def _part_from_json(fields: Mapping[str, Any]) -> Part:
    spec = EncoderSpec.from_json(fields["spec"])
    return Part(spec, tuple(fields["outputs"]), fields["encoder"], name=fields["name"])


def _digest(about: Mapping[str, Any], arrays: Tensors) -> str:
    seen = hashlib.sha256(canonical(about))
    for name in sorted(arrays):
        seen.update(f"{name} {arrays[name].dtype} {arrays[name].shape}\n".encode())
        seen.update(arrays[name].tobytes())
    return seen.hexdigest()


def _render(header: Mapping[str, Any]) -> bytes:
    """The head of a safetensors file: its length, then JSON, padded so that the data begin at a multiple of 8."""
    text = canonical(header)
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """Header of a safetensors file, and where its data begin; its size is checked."""
    with open(path, "rb") as file:
        whole = file.seek(0, 2)
        file.seek(0)
        try:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, whole)))
            size = max((e["data_offsets"][1] for name, e in header.items() if name != "__metadata__"), default=0)
        except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
            raise _damaged(path, "its header cannot be read") from error
    if 8 + length + size != whole:
        raise _damaged(path, "it is shorter or longer than its header says")
    return header, 8 + length


def _damaged(path: Path, why: str) -> CacheError:
    return CacheError(f"{path} is not a whole file of weights of vbx ({why}); move it away, or train its runs again")
