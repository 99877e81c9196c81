"""Weights from the Hugging Face Hub: whole, checked, never a pickle, and one line for what goes wrong.

huggingface_hub downloads and caches. Added here: a cached file that is not what the Hub names is thrown away
and fetched anew, so that a damaged one cannot fail every later call, and every error says what to do.
"""

import json
import os
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.sha import sha_fileobj
from safetensors import SafetensorError, safe_open

from ..errors import UserError, first_line
from ..run_files import CARD, CONFIG, WEIGHTS

SHA256_DIGITS = 64
# Names, since huggingface_hub's client changes.
UNREACHABLE = {"ConnectError", "ConnectTimeout", "ConnectionError", "ProxyError"}
TIMMS_WEIGHTS = (WEIGHTS, "pytorch_model.bin")  # what timm looks for in a repository


class DownloadError(UserError, RuntimeError):
    """Say in one line what went wrong with a download and what to do about it."""


class NotReachedError(DownloadError):
    """Say that a file is not on this machine, and that the Hub cannot be asked for it.

    Args:
        reason: what keeps it from being had.
        advice: what to do about it.
    """

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(f"{reason}: {advice}")
        self.reason = reason


def fetch(source: str, filename: str = WEIGHTS, cache_dir: str | Path | None = None, **options: Any) -> Path:
    """Fetch config.json or weights of a model repository, from the cache if it is current or the Hub cannot be reached.

    Args:
        source: "ORG/NAME" or "ORG/NAME@REVISION".
        filename: `CONFIG`, `CARD`, or a .safetensors file, which is checked; any other file is refused.
        cache_dir: huggingface_hub's cache if it is not in its usual place.
        options: more arguments for `hf_hub_download`, such as `token`.

    Raises:
        DownloadError: if it cannot be had, or the file on the Hub is itself damaged.
    """
    repository, _, revision = source.partition("@")
    if filename not in (CONFIG, CARD) and not filename.endswith(".safetensors"):
        raise DownloadError(f"{source}: {filename} is not a safetensors file; vt_timm loads no pickles")
    for _attempt in range(2):
        try:
            if not (constants.HF_HUB_OFFLINE or is_cached(source, filename, cache_dir)):
                _reach(source, filename, options.get("token"))
            path = Path(
                hf_hub_download(repository, filename, revision=revision or None, cache_dir=cache_dir, **options)
            )
        except Exception as error:
            raise _download_error(source, filename, error) from error
        damage = _damage(path)
        if damage is None:
            return path
        _forget(path)
    raise DownloadError(f"{source}: {filename} {damage}, also when fetched anew: tell its owner to upload it again")


def is_cached(source: str, filename: str = WEIGHTS, cache_dir: str | Path | None = None) -> bool:
    """True if the file is in huggingface_hub's cache, without asking the Hub."""
    repository, _, revision = source.partition("@")
    return isinstance(try_to_load_from_cache(repository, filename, cache_dir, revision or None), str)


def _reach(source: str, filename: str, token: Any = None) -> None:
    """Ask for the file once: without a network huggingface_hub tries for a minute or two before it says so.

    Raises:
        LocalEntryNotFoundError: if nobody answers. Whatever else is wrong is left to the download, which tries again
            where that may help.
    """
    repository, _, revision = source.partition("@")
    try:
        get_hf_file_metadata(hf_hub_url(repository, filename, revision=revision or None), token=token)
    except Exception as error:
        if type(error).__name__ in UNREACHABLE:
            raise LocalEntryNotFoundError(first_line(error)) from error


def check_reachable(name: str, weights: bool = True, cache_dir: str | Path | None = None) -> None:
    """Ask the Hub once for the weights that timm will load from it by this name, unless they are in the cache.

    timm leaves the asking to huggingface_hub, which without a network tries each file six times. Whatever else may be
    wrong with the name, and what lies on this machine, is left to timm.

    Args:
        name: as `timm.create_model` takes it.
        weights: False where config.json alone is read.
        cache_dir: huggingface_hub's cache if it is not in its usual place.

    Raises:
        NotReachedError: if nobody answers, or nobody may be asked (HF_HUB_OFFLINE).
    """
    if name.startswith(("hf-hub:", "hf_hub:")):
        source, wanted = name.partition(":")[2], [(CONFIG,), TIMMS_WEIGHTS][: 1 + weights]
    else:
        try:
            config = timm.get_pretrained_cfg(name)
        except RuntimeError:  # no such tag
            return
        if config is None or not config.hf_hub_id or config.file or config.state_dict:
            return
        source, wanted = config.hf_hub_id, [(config.hf_hub_filename,) if config.hf_hub_filename else TIMMS_WEIGHTS]
    try:
        missing = [names[0] for names in wanted if not any(is_cached(source, name, cache_dir) for name in names)]
        if missing and constants.HF_HUB_OFFLINE:
            raise OfflineModeIsEnabled
        if missing:
            _reach(source, missing[0])
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HFValidationError) as error:
        raise _download_error(source, wanted[0][0], error) from error


def _damage(path: Path) -> str | None:
    """Say what is wrong with a cached file; the cache names large files by the sha256 that the Hub gives for them."""
    try:
        if path.name == CONFIG:
            json.loads(path.read_text(encoding="utf-8"))
        elif path.name != CARD:
            safe_open(path, framework="pt")  # reads the header, and compares it with the size
    except ValueError as error:
        return f"is not JSON ({first_line(error)})"
    except SafetensorError as error:
        return f"is not a whole safetensors file ({first_line(error)})"
    name = Path(os.readlink(path)).name if path.is_symlink() else ""
    if len(name) == SHA256_DIGITS:
        with path.open("rb") as file:
            if sha_fileobj(file).hex() != name:
                return "has another checksum than the Hub says"
    return None


def _forget(path: Path) -> None:
    """Take a file out of the cache, and what links point to as well, since it would be linked again."""
    while path.is_symlink():
        target = path.parent / os.readlink(path)
        path.unlink()
        path = target
    path.unlink(missing_ok=True)


def _download_error(source: str, filename: str, error: BaseException) -> DownloadError:
    if isinstance(error, (LocalEntryNotFoundError, OfflineModeIsEnabled)):
        if constants.HF_HUB_OFFLINE:
            reason = f"{source} is not in the cache and HF_HUB_OFFLINE is set"
            return NotReachedError(reason, f"unset it and run `vt-timm download {source}` once")
        cause = error.__cause__
        if not isinstance(cause, HfHubHTTPError) or _status(cause) is None:
            return NotReachedError(
                f"{source} is not in the cache and the Hub at {constants.ENDPOINT} cannot be reached",
                f"connect and run `vt-timm download {source}` once, or use a model that ships (`vt-timm models`)",
            )
        error = cause
    return DownloadError(_what_to_do(source, filename, error))


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _what_to_do(source: str, filename: str, error: BaseException) -> str:
    page = f"{constants.ENDPOINT}/{source.partition('@')[0]}"
    reason, status = first_line(error), _status(error)
    if isinstance(error, HFValidationError):
        return f"{source} is neither a folder here nor a repository's name, ORG/NAME"
    if isinstance(error, GatedRepoError):
        return f"{source} is gated: accept its conditions at {page}, then log in with `hf auth login`"
    if isinstance(error, RepositoryNotFoundError):
        return f"there is no repository {source} on the Hub, or it is private: check the name, or `hf auth login`"
    if isinstance(error, RevisionNotFoundError):
        return f"{source}: the repository has no such revision; see {page}"
    if isinstance(error, EntryNotFoundError):
        pickles = "; vt_timm loads safetensors only, never a pickle" if filename == WEIGHTS else ""
        return f"{source} holds no {filename}{pickles}; see {page}"
    if isinstance(error, HfHubHTTPError) and status in (401, 403):
        return f"no permission to read {source} (HTTP {status}): log in with `hf auth login`, or ask its owner"
    if isinstance(error, HfHubHTTPError):
        return f"the Hub could not serve {source} (HTTP {status}): try again later"
    if isinstance(error, PermissionError):
        return f"cannot write to the cache ({reason}): give yourself the right to, or name another folder with HF_HOME"
    return f"the download of {source} broke off ({reason}): run it again; nothing incomplete is used"
