"""Explains refusals of the Hugging Face hub in one line: a licence to accept, a missing log-in, a wrong name."""

import huggingface_hub
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN to an access token (https://huggingface.co/settings/tokens)"
_UNAUTHORISED, _FORBIDDEN = 401, 403


def refusal(name: str, error: Exception) -> str | None:
    """Returns the cause of a refusal by the hub, with its remedy; None for any other error.

    Args:
      name: the repository, ``owner/name``.
      error: of ``huggingface_hub``.
    """
    found: BaseException | None = error
    while found is not None and not isinstance(found, HfHubHTTPError):
        found = found.__cause__  # the client may raise "not in the cache" from the refusal
    if found is None or found.response.status_code not in (_UNAUTHORISED, _FORBIDDEN):
        return None
    page = f"{huggingface_hub.constants.ENDPOINT}/{name}"
    if isinstance(found, GatedRepoError):
        # 401: no token. 403: the account of the token has not accepted the terms.
        accept = f"accept its terms at {page}"
        if found.response.status_code == _UNAUTHORISED:
            return f"{name!r} has a licence to accept on the hub: {accept}, then {_LOG_IN}"
        return (
            f"{name!r} has a licence that your account has not accepted, or that waits for approval: {accept} with the "
            "account of your token (`hf auth whoami`); the token must be allowed to read gated repositories"
        )
    if isinstance(found, RepositoryNotFoundError):
        return (
            f"the hub has no public repository {name!r}: check the name at {page}; if it is private, {_LOG_IN} of an "
            "account that may read it"
        )
    status = found.response.status_code
    said = " ".join(str(found.server_message or "").split())
    return f"the hub refuses your token for {name!r} ({status}{f': {said}' if said else ''}): {_LOG_IN}"
