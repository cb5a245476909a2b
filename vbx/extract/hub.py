"""Weights from the Hugging Face hub: the local cache first, and one sentence when they cannot be had."""

from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is of the library underneath
    GatedRepoError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from vbx.errors import CheckpointError
from vbx.extract.weights import CONFIGS, INDEX, WEIGHTS, tensor_files

TIMEOUT_S = 10.0
"""Longest wait for an answer of the hub, in seconds."""


def fetch_checkpoint(model: str, revision: str | None = None) -> Path:
    """The folder of a hub model's config and weights.

    What the local cache holds is used as it is; only without it is the hub asked. Safetensors are taken where there
    are any, a pickle otherwise; nothing else of the repository is downloaded.

    Args:
        model: `ORG/NAME` on huggingface.co
        revision: branch, tag or commit; None for the default branch

    Raises:
        CheckpointError: if the weights are neither in the cache nor to be had, in one sentence that says why
    """
    cached = _cached(model, revision)
    if cached is not None:
        return cached
    try:
        info = HfApi().model_info(model, revision=revision, timeout=TIMEOUT_S)
        wanted = _wanted([file.rfilename for file in info.siblings or ()])
        if wanted:
            return Path(snapshot_download(model, revision=revision, allow_patterns=wanted, etag_timeout=TIMEOUT_S))
    except GatedRepoError as error:
        raise CheckpointError(
            f"model {model!r} is gated: accept its terms at https://huggingface.co/{model} and log in with "
            "`hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"there is no folder {model!r}, and huggingface.co has no model of that name, unless it is private: then "
            "log in with `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"model {model!r} on huggingface.co has no revision {revision!r}") from error
    except (HTTPError, OSError) as error:
        raise CheckpointError(_unreachable(model, revision, error)) from error
    raise CheckpointError(f"model {model!r} on huggingface.co holds neither {' nor '.join(WEIGHTS)}")


def _cached(model: str, revision: str | None) -> Path | None:
    """The model's folder in the local cache, if everything is there.

    Without preprocessor_config.json it is not trusted: other programs leave that file out, and it decides whether
    waveforms are normalised.
    """
    try:
        folder = Path(snapshot_download(model, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    except HFValidationError as error:
        raise CheckpointError(f"{model!r} is neither a folder here nor a name on huggingface.co ({error})") from error
    try:
        tensor_files(folder)
    except CheckpointError:
        return None
    return folder if all((folder / name).is_file() for name in CONFIGS) else None


def _wanted(names: list[str]) -> list[str]:
    """Which of a repository's files to take: the configs and one set of weights; none if it has no weights."""
    for whole in WEIGHTS:
        stem, suffix = whole.split(".")
        shards = [name for name in names if name.startswith(f"{stem}-") and name.endswith(f".{suffix}")]
        index = f"{whole}{INDEX}"
        weights = [whole] if whole in names else [index, *shards] if index in names else []
        if weights:
            return [name for name in CONFIGS if name in names] + weights
    return []


def _unreachable(model: str, revision: str | None, error: Exception) -> str:
    page = f"https://huggingface.co/{model}" + (f"/tree/{revision}" if revision else "")
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return (
        f"the weights of {model!r} are not on this machine and the hub cannot be reached ({reason}); download "
        f"{', '.join(CONFIGS)} and {' or '.join(WEIGHTS)} from {page} and pass their folder with "
        "--checkpoint NAME=FOLDER"
    )
