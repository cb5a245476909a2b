"""Which files of a folder are a transformers checkpoint. Names that leave the folder are refused."""

import json
from pathlib import Path, PurePosixPath, PureWindowsPath

from vbx.errors import CheckpointError

CONFIGS = ("config.json", "preprocessor_config.json")
"""Files beside the weights that decide what comes out; the second may be missing."""
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Files of weights, the first that is there counts; each may also be an index (`NAME.index.json`) and its shards."""
INDEX = ".index.json"
SIZES = {
    "num_hidden_layers": 512,
    "num_attention_heads": 1024,
    "hidden_size": 65_536,
    "intermediate_size": 262_144,
    "num_conv_pos_embeddings": 65_536,
    "num_conv_pos_embedding_groups": 65_536,
    "num_buckets": 65_536,
    "max_bucket_distance": 1_048_576,
    "conv_dim": 65_536,
    "conv_kernel": 65_536,
    "conv_stride": 65_536,
}
"""Sizes in a config.json and the largest that vbx believes, some tens of times those of any published model. A model is
laid out before its weights are read, so that a size decides what that takes."""
MOST_CONVOLUTIONS = 64
SAMPLE_RATE_HZ = (1000, 1_000_000)


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
            return [inside(folder, shard, index) for shard in sorted(set(map(str, shards.values())))]
    raise CheckpointError(
        f"{str(folder)!r} holds neither {' nor '.join(WEIGHTS)}; vbx reads no other kind of weights, so convert them "
        "with `save_pretrained`"
    )


def read_config(folder: Path) -> dict[str, object]:
    """The config.json of a checkpoint, its sizes such as a model can have.

    Raises:
        CheckpointError: if it is no JSON object, or a size is none
    """
    path = folder / CONFIGS[0]
    values = read_json(path)
    for name, most in SIZES.items():
        given = values.get(name, 1)
        sizes = given if isinstance(given, list) and name.startswith("conv_") else [given]
        if not 0 < len(sizes) <= MOST_CONVOLUTIONS or not all(_is_size(size, 1, most) for size in sizes):
            raise CheckpointError(
                f"{str(path)!r} has {name} {str(given)[:60]}; vbx takes whole numbers from 1 to {most:,}"
            )
    return values


def read_preprocessor(folder: Path) -> tuple[bool, int]:
    """Whether a waveform is brought to mean 0 and variance 1, and its rate in Hz, by preprocessor_config.json.

    Raises:
        CheckpointError: if it is no JSON object, or says something else
    """
    path = folder / CONFIGS[1]
    values = read_json(path) if path.is_file() else {}
    standardise, rate = values.get("do_normalize", True), values.get("sampling_rate", 16_000)
    if not isinstance(standardise, bool) or not _is_size(rate, *SAMPLE_RATE_HZ):
        raise CheckpointError(
            f"{str(path)!r} has do_normalize {str(standardise)[:60]} and sampling_rate {str(rate)[:60]}; vbx takes "
            "true or false, and a rate in Hz"
        )
    return standardise, int(str(rate))


def _is_size(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


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
    try:
        there = (folder / name).is_file()
    except OSError:  # too long a name
        there = False
    if not there:
        raise CheckpointError(f"{str(source)!r} names {name[:200]!r}, and there is no such file beside it")
    return folder / name


def read_json(path: Path) -> dict[str, object]:
    """A file that holds one JSON object.

    Raises:
        CheckpointError: if it holds anything else
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{str(path)!r} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{str(path)!r} is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{str(path)!r} holds no JSON object")
    return content
