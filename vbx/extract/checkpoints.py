"""Where the weights of an encoder are, and the digest that stands for them in the cache key."""

import hashlib
from dataclasses import replace
from pathlib import Path

from vbx.cache.spec import EncoderSpec
from vbx.errors import CheckpointError
from vbx.extract.memo import remembered_digest
from vbx.extract.onnx_files import external_files, find_onnx
from vbx.extract.weights import CONFIGS, has_weights, read_config, tensor_files
from vbx.progress import Progress


def find_checkpoint(
    spec: EncoderSpec, where: str | None = None, *, download: bool = True, progress: Progress | None = None
) -> tuple[EncoderSpec, Path]:
    """Find the weights of an encoder; they are downloaded only if they are nowhere on this machine.

    A path that exists wins over a name on the hub. Where weights come from is not part of what they are: model and
    revision of the spec stay as the user named them, and the digest of the weights tells two sources apart. A folder
    has no revisions, so `FOLDER@REV` is an error rather than a revision that nobody looked at.

    An ONNX release serves the same features as the weights it was made from: the spec then becomes one of the `onnx`
    encoder, without pooling and windows, which such a model does not leave to us.

    Args:
        spec: the encoder's spec
        where: a folder or file, or `HUB_ID[@REV]`; None for the spec's own model and revision on the hub
        download: whether weights that are not on this machine are fetched
        progress: told of a download

    Returns:
        the spec, and the folder of its weights, or the file of an ONNX model

    Raises:
        CheckpointError: if there are no weights, or none of a kind that vbx reads
    """
    path = _local_path(where) if where else None
    if path is None:
        from vbx.extract.hub import (
            cached_checkpoint,
            fetch_checkpoint,
        )  # late: most runs need no hub, whose package is slow

        model, revision = _hub_name(spec, where)
        path = fetch_checkpoint(model, revision, progress) if download else cached_checkpoint(model, revision)
    if path is None:
        raise CheckpointError(f"the weights of {model!r} are not on this machine yet")
    if spec.encoder not in ("wav2vec2", "onnx"):
        return spec, path  # a plugin out of the tree knows its own files
    if spec.encoder == "onnx" or not has_weights(path):
        onnx = find_onnx(path)
        if onnx is not None:
            return replace(spec, encoder="onnx", pooling=None, window_s=None, overlap_s=None), onnx.main
        if spec.encoder == "onnx":
            raise CheckpointError(f"{str(path)!r} is no ONNX model: neither a .onnx file nor a folder that holds one")
    if path.is_file():
        raise CheckpointError(f"{str(path)!r} is no checkpoint; name the folder that holds config.json and the weights")
    tensor_files(path)
    read_config(path)
    return spec, path


def weights_digest(path: Path) -> str:
    """SHA-256 over the files that decide what a checkpoint gives.

    These are config.json, preprocessor_config.json and the weights of transformers, or the model, the description and
    the external tensors of ONNX. The digest depends on their names inside the folder and on their content, not on
    where the folder is.

    Args:
        path: what `find_checkpoint` returned

    Raises:
        CheckpointError: if there are no weights at the path
    """
    folder = path if path.is_dir() else path.parent
    onnx = None if has_weights(path) else find_onnx(path)
    if onnx is not None:
        files = [onnx.model, *external_files(onnx.model)] + ([onnx.description] if onnx.description else [])
    else:
        files = tensor_files(folder) + [folder / name for name in CONFIGS if (folder / name).is_file()]
    lines = sorted(f"{file.relative_to(folder).as_posix()}\0{_file_digest(file)}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    try:
        digest = remembered_digest(path)
    except OSError as error:
        raise CheckpointError(f"{str(path)!r} cannot be read: {error.strerror or error}") from error
    from vbx.extract.hub import check_blob  # late, as above

    check_blob(path, digest)
    return digest


def _local_path(where: str) -> Path | None:
    """The path that was named, if it is one; None for a name on the hub."""
    path = Path(where).expanduser()
    name, at, revision = where.rpartition("@")
    try:
        if path.exists():
            return path
        versioned = bool(at) and Path(name).expanduser().exists()
    except OSError as error:
        raise CheckpointError(f"no checkpoint at {where[:200]!r}: {error.strerror or error}") from error
    if versioned:
        raise CheckpointError(f"{name!r} is a path, and a path has no revisions; leave out '@{revision}'")
    if path.is_absolute() or where.startswith((".", "~")) or where.count("/") > 1 or path.suffix in (".onnx", ".yaml"):
        raise CheckpointError(f"no checkpoint at {where!r}: there is no such folder or file")
    return None


def _hub_name(spec: EncoderSpec, where: str | None) -> tuple[str, str | None]:
    """Model and revision on the hub."""
    if where:
        model, _, revision = where.partition("@")
        return model, revision or None
    if spec.encoder == "onnx":
        raise CheckpointError(f"the ONNX model {spec.model!r} is a file; say where it is with --checkpoint NAME=PATH")
    return spec.model, spec.revision
