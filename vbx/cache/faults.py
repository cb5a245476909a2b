"""Faults of an object store: which of them pass, and a sentence for each that does not."""

import re

from obstore.exceptions import NotSupportedError, PermissionDeniedError, UnauthenticatedError

PATIENCE, PATIENCE_S = "VBX_REMOTE_PATIENCE_S", 120.0
"""Environment variable, and default: for how many seconds a request that fails is tried again."""
NO_CONDITIONS = "this store knows no conditional puts, without which two writers could tear a unit; use another"
_CREDENTIALS = ("169.254.169.254", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken")
"""Where a cloud's machine would be asked for credentials, for want of any; and what S3 says of wrong ones."""
_PASSING = {408, 409, 412, 429}
"""Of the answers that blame the client, those that may be another the next time."""


def is_final(error: Exception) -> bool:
    """Whether trying again would give the same answer."""
    text = str(error)
    if isinstance(error, PermissionDeniedError | UnauthenticatedError | NotSupportedError):
        return True
    if status := re.search(r"status code: (4\d\d)", text):
        return int(status.group(1)) not in _PASSING and "RequestTimeout" not in text
    return any(mark in text for mark in (*_CREDENTIALS, "builder error", "configured region"))


def explain(error: Exception, patience_s: float) -> str:
    """Why a request failed for good, and the way out.

    Args:
        error: obstore's
        patience_s: for how long it was tried
    """
    text = str(error)
    if "NoSuchBucket" in text:
        return "there is no such bucket; create it, or correct --cache"
    if isinstance(error, UnauthenticatedError) or any(mark in text for mark in _CREDENTIALS):
        return "the credentials are missing or wrong; for S3 set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    if isinstance(error, PermissionDeniedError):
        return "permission denied; the credentials (for S3 AWS_ACCESS_KEY_ID and its secret) may not do that here"
    if isinstance(error, NotSupportedError):
        return NO_CONDITIONS
    if is_final(error):
        return f"the store refuses it ({_reason(error)}); see AWS_ENDPOINT_URL and AWS_REGION"
    return (
        f"no luck in {patience_s:g} s ({_reason(error)}); nothing in the cache is damaged: run the same command again, "
        f"or with a larger {PATIENCE}"
    )


def first_line(error: Exception) -> str:
    """The first line of obstore's message."""
    return str(error).split("\n", 1)[0].strip()


def _reason(error: Exception) -> str:
    """The heart of obstore's message."""
    text = str(error)
    status = re.search(r"status code: (\d{3}[^:<\n]*)", text)
    code = re.search(r"<Code>(\w+)</Code>", text)
    if status:
        return status.group(1).strip() + (f", {code.group(1)}" if code else "")
    return first_line(error).rpartition(" - ")[2]
