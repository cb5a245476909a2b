"""Weights from the Hugging Face hub: the local cache first, and one sentence when they cannot be had.

Files lie in the cache that all programs of the hub share, in its documented layout: `blobs/DIGEST`, a link to it in
`snapshots/COMMIT/`, and the commit in `refs/REVISION`. They are fetched by `download`, because `snapshot_download`
neither goes on after an interruption nor compares digests.
"""

import os
import re
import secrets
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is of the library underneath
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # exported lazily

from vbx.cache.files import write_file
from vbx.errors import CheckpointError
from vbx.extract.download import TIMEOUT_S, HubFile, download
from vbx.extract.weights import CONFIGS, INDEX, WEIGHTS, tensor_files
from vbx.progress import Progress, Quiet

DEFAULT_BRANCH = "main"
DIGEST = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")
REVISION = re.compile(r"(?!.*\.\.)\w[\w./-]*")
"""What may be a branch, tag or commit; it becomes the name of a file."""


def fetch_checkpoint(model: str, revision: str | None = None, progress: Progress | None = None) -> Path:
    """The folder of a hub model's config and weights.

    What the local cache holds is used as it is; only without it is the hub asked. Safetensors are taken where there
    are any, a pickle otherwise; nothing else of the repository is downloaded.

    Args:
        model: `ORG/NAME` on the hub
        revision: branch, tag or commit; None for the default branch
        progress: told of what is downloaded

    Raises:
        CheckpointError: if the weights are neither in the cache nor to be had, in one sentence that says why
    """
    cached = cached_checkpoint(model, revision)
    if cached is not None:
        return cached
    try:
        info = HfApi().model_info(model, revision=revision, files_metadata=True, timeout=TIMEOUT_S)
        return _fetch(model, revision, info, progress or Quiet())
    except CheckpointError:
        raise
    except (HTTPError, OSError) as error:
        raise CheckpointError(_reason(model, revision, error)) from error


def cached_checkpoint(model: str, revision: str | None = None) -> Path | None:
    """The model's folder in the local cache, if everything is there; the hub is not asked.

    Without preprocessor_config.json it is not trusted, unless the hub has said that the model has none: other programs
    leave that file out, and it decides whether waveforms are normalised.

    Raises:
        CheckpointError: if this cannot be the name of a model or of a revision
    """
    try:
        validate_repo_id(model)
    except HFValidationError as error:
        raise CheckpointError(f"{model!r} is neither a folder here nor a name on {_host()} ({error})") from error
    if revision is not None and not REVISION.fullmatch(revision):
        raise CheckpointError(f"{revision!r} is no revision of {model!r}: name a branch, a tag or a commit")
    config, preprocessor = (try_to_load_from_cache(model, name, revision=revision) for name in CONFIGS)
    if not isinstance(config, str) or preprocessor is None:
        return None
    try:
        tensor_files(Path(config).parent)
    except CheckpointError:
        return None
    return Path(config).parent


def check_blob(path: Path, digest: str) -> None:
    """Make sure that a file of the hub's cache is what its name there says; other files have no such name.

    Raises:
        CheckpointError: if it is not
    """
    link = Path(os.readlink(path)) if path.is_symlink() else path
    if link.parent.name == "blobs" and DIGEST.fullmatch(link.name) and len(link.name) == 64 and link.name != digest:
        blob = Path(os.path.normpath(path.parent / link))
        raise CheckpointError(f"{str(path)!r} is damaged: its digest is not its name; delete {str(blob)!r} to fetch it")


def _fetch(model: str, revision: str | None, info: Any, progress: Progress) -> Path:
    """Download the files of a checkpoint, each verified, and only then show them to other programs."""
    files = _files(model, info)
    place = Path(constants.HF_HUB_CACHE).expanduser() / repo_folder_name(repo_id=model, repo_type="model")
    folder: Path = place / "snapshots" / info.sha
    progress.start(f"fetching {model}", sum(file.size for file in files) / 1e6, "MB")
    try:
        for file in files:
            blob = download(file, place / "blobs", lambda size: progress.advance(size / 1e6))
            _show(blob, folder / file.name)
    finally:
        progress.finish()
    if CONFIGS[1] not in [file.name for file in files]:
        write_file(place / ".no_exist" / info.sha / CONFIGS[1], b"")
    if revision != info.sha:
        write_file(place / "refs" / (revision or DEFAULT_BRANCH), info.sha.encode())
    return folder


def _show(blob: Path, link: Path) -> None:
    """Link to a file from where programs look for it, in one step."""
    aside = link.with_name(f".{link.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        link.parent.mkdir(parents=True, exist_ok=True)
        aside.symlink_to(os.path.relpath(blob, link.parent))
        os.replace(aside, link)
    except OSError as error:
        raise CheckpointError(
            f"cannot write {link}: {error.strerror or error}; set HF_HOME to another folder"
        ) from error


def _files(model: str, info: Any) -> list[HubFile]:
    """What to take of a repository, as the hub lists it."""
    listed = {file.rfilename: file for file in info.siblings or ()}
    wanted = _wanted(list(listed))
    if not wanted:
        raise CheckpointError(f"model {model!r} on {_host()} holds neither {' nor '.join(WEIGHTS)}")
    files = []
    for name in wanted:
        large = listed[name].lfs
        digest, size = (large.sha256, large.size) if large else (listed[name].blob_id, listed[name].size)
        if not DIGEST.fullmatch(str(digest)) or not DIGEST.fullmatch(str(info.sha)) or size is None:
            raise CheckpointError(
                f"{_host()} states no digest of {name!r} of {model!r}, so that it cannot be verified; "
                + _by_hand(model, None)
            )
        url = hf_hub_url(model, name, revision=info.sha)
        files.append(HubFile(name, url, size, digest))
    return files


def _wanted(names: list[str]) -> list[str]:
    """Which of a repository's files to take: the configs and one set of weights; none if it has no weights."""
    names = [name for name in names if "/" not in name and "\\" not in name]
    for whole in WEIGHTS:
        stem, suffix = whole.split(".")
        shards = [name for name in names if name.startswith(f"{stem}-") and name.endswith(f".{suffix}")]
        index = f"{whole}{INDEX}"
        weights = [whole] if whole in names else [index, *shards] if index in names else []
        if weights:
            return [name for name in CONFIGS if name in names] + weights
    return []


def _reason(model: str, revision: str | None, error: Exception) -> str:
    """One sentence for what the hub, or the way to it, answered."""
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    login = "set HF_TOKEN to a token of yours, or log in with `hf auth login`"
    if isinstance(error, GatedRepoError):
        return f"model {model!r} is gated: accept its terms at {model_page(model)}, then {login}"
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"there is no folder {model!r}, and {_host()} has no model of that name, unless it is private: then {login}"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"model {model!r} on {_host()} has no revision {revision!r}; see {model_page(model, DEFAULT_BRANCH)}"
    if isinstance(error, RemoteEntryNotFoundError):
        name = str(error.response.request.url).rsplit("/", 1)[-1]
        return f"{_host()} lists {name} of {model!r} and does not have it; name another revision by {model}@REVISION"
    if status in (401, 403):
        return f"{_host()} refuses {model!r} to the token that you use; {login}"
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    if constants.HF_HUB_OFFLINE:
        reason = "HF_HUB_OFFLINE is set"
    return f"the weights of {model!r} are not on this machine and the hub cannot be reached ({reason}); " + _by_hand(
        model, revision
    )


def _by_hand(model: str, revision: str | None) -> str:
    return (
        f"download {', '.join(CONFIGS)} and {' or '.join(WEIGHTS)} from {model_page(model, revision)} and pass their "
        "folder with --checkpoint NAME=FOLDER"
    )


def model_page(model: str, revision: str | None = None) -> str:
    """The page of a model on the hub."""
    return f"{constants.ENDPOINT}/{model}" + (f"/tree/{revision}" if revision else "")


def _host() -> str:
    return constants.ENDPOINT.partition("://")[2]
