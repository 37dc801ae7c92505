"""Files from and to the Hugging Face hub: download with one request, upload a folder, errors of one line.

``hf_hub_download`` of the hub's library repeats a failed request five times, which without a network takes half a
minute and prints ten lines. ``snapshot_download`` asks once and then takes what an earlier download left in the cache.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mmbert.errors import ConfigError, MMBertError, first_line
from mmbert.files import read_json

_NO_NETWORK = r"ConnectError|ConnectionError|NameResolution|Timeout|Network is unreachable|check your (Internet )?conn"


class HubFailed(Exception):
    """The hub did not return a file. The message is the reason."""


def network_error() -> type[Exception]:
    """Return the root of the HTTP errors of the hub's library, a proxy's among them.

    It is that of the client that the library uses, requests or httpx by its version.
    """
    from huggingface_hub.errors import HfHubHTTPError

    found: type[Exception] = HfHubHTTPError.__mro__[1]
    return found


def hub_folder(name: str, patterns: Sequence[str], *, revision: str | None = None) -> Path:
    """Return a local folder with the files of ``name`` that match ``patterns``. Raises HubFailed."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns)))
    except (OSError, network_error(), HFValidationError) as error:
        raise HubFailed(reason(error)) from error


def hub_file(name: str, file: str, *, beside: Sequence[str] = (), revision: str | None = None) -> Path:
    """Return the local path of one file of ``name``. Raises HubFailed.

    beside  patterns of other files that are downloaded too, if there are any
    """
    path = hub_folder(name, [file, *beside], revision=revision) / file
    if not path.is_file():
        raise HubFailed(f"{name} has no {file} there, or the hub could not be reached and none is in the cache")
    return path


def reason(error: Exception) -> str:
    """Return the reason of a hub library error as one line: no network, no such name, or its own first line."""
    text = f"{type(error).__name__}: {error} {error.__cause__ or ''}"
    if re.search(_NO_NETWORK, text):
        return "it cannot be reached, and nothing is in the cache (check the network, or give a local folder)"
    if "OfflineModeIsEnabled" in text or "HF_HUB_OFFLINE" in text:
        return "HF_HUB_OFFLINE is set, and nothing is in the cache"
    if "RepositoryNotFound" in text:
        return "there is no such repository, or it needs a login (hf auth login)"
    return first_line(error)


_LOGIN = "log in with `hf auth login`, or set HF_TOKEN to a token that may write"


def check_upload(name: str) -> None:
    """Raise ConfigError if nobody is logged in to the hub, or ``name`` is no USER/NAME. Asks no server."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ConfigError(f"{name!r} is no repository of the hub: {first_line(error)}") from error
    if "/" not in name:
        raise ConfigError(f"{name!r} is no repository of the hub: write USER/{name}")
    if get_token() is None:
        raise ConfigError(f"cannot upload to {name}: nobody is logged in to the hub: {_LOGIN}")


def upload(folder: Path, name: str, *, private: bool = False) -> str:
    """Upload a folder to the repository ``name``, made if it is not there, and return its address.

    private  make it a private one; a repository that is there stays what it is
    Raises ConfigError as ``check_upload`` does and for an adapter whose base is a folder of this machine, and
    MMBertError if the hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    check_upload(name)
    _check_base(folder, name)
    api = HfApi()
    try:
        address = str(api.create_repo(name, private=private or None, exist_ok=True))
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Upload by mmbert")
    except (OSError, ValueError, network_error()) as error:
        status = getattr(error.response, "status_code", None) if isinstance(error, HfHubHTTPError) else None
        why = f"the hub refuses ({status}): {_LOGIN}" if status in (401, 403) else first_line(error)
        raise MMBertError(
            f"cannot upload to {name}: {why}; the folder is complete: run this again, or `hf upload {name} {folder}`"
        ) from error
    return address


def _check_base(folder: Path, name: str) -> None:
    """Raise ConfigError for an adapter that names its base by a path, which nobody else has and which tells of here."""
    config = folder / "adapter_config.json"
    base = str(read_json(config).get("base_model_name_or_path")) if config.is_file() else ""
    if Path(base).is_absolute():
        raise ConfigError(
            f"cannot upload to {name}: {config} names its base by a path of this machine, {base}: write the base's "
            f"name on the hub there, then `hf upload {name} {folder}`"
        )
