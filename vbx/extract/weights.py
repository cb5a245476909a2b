"""Which files of a folder are a transformers checkpoint. Names that leave the folder are refused."""

import json
from pathlib import Path, PurePosixPath, PureWindowsPath

from vbx.errors import CheckpointError

CONFIGS = ("config.json", "preprocessor_config.json")
"""Files beside the weights that decide what comes out; the second may be missing."""
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Files of weights, the first that is there counts; each may also be an index (`NAME.index.json`) and its shards."""
INDEX = ".index.json"


def has_weights(path: Path) -> bool:
    """Whether a path is a folder with weights of transformers, complete or not."""
    return path.is_dir() and any((path / f"{name}{end}").is_file() for name in WEIGHTS for end in ("", INDEX))


def tensor_files(folder: Path) -> list[Path]:
    """The files of weights in a folder of a transformers checkpoint: safetensors if there are any, else a pickle.

    Raises:
        CheckpointError: if the folder lacks config.json, weights, or a shard
    """
    if not (folder / CONFIGS[0]).is_file():
        raise CheckpointError(f"{str(folder)!r} holds no config.json, so it is no checkpoint of transformers")
    for name in WEIGHTS:
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}{INDEX}"
        if index.is_file():
            shards = read_json(index).get("weight_map")
            if not isinstance(shards, dict) or not shards:
                raise CheckpointError(f"{str(index)!r} lists no weights")
            return [inside(folder, shard, index) for shard in sorted(map(str, set(shards.values())))]
    raise CheckpointError(
        f"{str(folder)!r} holds neither {' nor '.join(WEIGHTS)}; vbx reads no other kind of weights, so convert them "
        "with `save_pretrained`"
    )


def inside(folder: Path, name: str, source: Path) -> Path:
    """A file that one of a model's own files names, if it lies in their folder.

    Args:
        folder: the folder of the model
        name: the name as it was written
        source: the file in which it was written, for the error

    Raises:
        CheckpointError: if the name is absolute or climbs out of the folder, or no such file is there
    """
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not parts or ".." in parts or parts[0] == "/" or PureWindowsPath(name).drive:
        raise CheckpointError(f"{str(source)!r} names {name!r}, which is outside its folder; vbx does not follow it")
    if not (folder / name).is_file():
        raise CheckpointError(f"{str(source)!r} names {name!r}, and there is no such file beside it")
    return folder / name


def read_json(path: Path) -> dict[str, object]:
    """A file that holds one JSON object.

    Raises:
        CheckpointError: if it holds anything else
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{str(path)!r} is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{str(path)!r} holds no JSON object")
    return content
