"""Where a packed data set lies, a folder or a URL, and reading what lies there."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import logging
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit
from urllib.request import url2pathname

from dataio.records import DataError

_PROTOCOLS = ("http", "https", "s3", "gs", "memory")  # memory: within one process, for tests
_TIMEOUT = "IMG2SHAPE_READ_TIMEOUT_SECONDS"
_ATTEMPTS = 7
_FIRST_WAIT_SECONDS = 0.5  # then 1, 2, .. 16; together about half a minute
_BLOCK_BYTES = 8 << 20  # of one request, and so what a broken connection costs

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+)://")
_SECRETS = re.compile(
    r"(\b[a-zA-Z][a-zA-Z0-9+.-]+://)(?:[^\s/?#'\"]*@)?([^\s?#'\"]*)(?:\?[^\s'\"]*)?"
)

_log = logging.getLogger(__name__)


class NotFound(DataError):
    """Nothing lies at an address."""


def is_remote(place: str | Path) -> bool:
    """Whether a place is a URL that is read over the network; False for paths and `file://`.

    Raises DataError for a URL of a protocol that is not read.
    """
    protocol = _protocol(str(place))
    if protocol is not None and protocol not in (*_PROTOCOLS, "file"):
        raise DataError(
            f"{shown(str(place))}: data sets are not read over {protocol}; use a folder or a URL "
            f"of {', '.join(_PROTOCOLS[:-1])}"
        )
    return protocol not in (None, "file")


def normal(place: str | Path) -> str:
    """The normal form of a place: `file://` as a path, no slash at the end."""
    place = str(place)
    if is_remote(place):
        return place.rstrip("/")
    if _protocol(place) == "file":
        place = url2pathname(urlsplit(place).path)
    return str(Path(place))


def join(root: str | Path, name: str) -> str:
    """The place of `name` under `root`; a `name` that is a path from `/` or a URL stays.

    A query (an access token) of an http root is passed on.
    """
    if os.path.isabs(name) or is_remote(name):
        return name
    root = normal(root)
    if not is_remote(root):
        return os.path.join(root, name)
    if _protocol(root) not in ("http", "https"):
        return f"{root}/{name}"
    head, mark, query = root.partition("?")
    return f"{head.rstrip('/')}/{quote(name)}{mark}{query}"


def exists(root: str | Path, name: str) -> bool:
    """Whether there is a file `name` under `root`.

    A refusal counts as no: S3 refuses where objects may be read but not listed. Raises DataError
    if the store cannot be asked.
    """
    place = join(root, name)
    if not is_remote(place):
        return os.path.isfile(place)
    try:
        _read(place, 0, 1)
    except (NotFound, _NotAllowed):
        return False
    return True


def read_bytes(place: str | Path) -> bytes:
    """All bytes of a file or of a small object.

    Transient faults are retried. Raises NotFound if there is none, DataError if it cannot be read.
    """
    place = normal(place)
    if is_remote(place):
        return _read(place)
    try:
        return Path(place).read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(f"{place}: not found") from error
    except OSError as error:
        raise DataError(f"{place}: cannot read ({error.strerror})") from error


def read_blocks(url: str, size_bytes: int) -> Iterator[bytes]:
    """The bytes of a remote object of `size_bytes`, block after block; fewer if it is shorter.

    Each block is asked for by its range and retried by itself, so a broken connection costs a
    block. The errors are as in `read_bytes`.
    """
    start = 0
    while start < size_bytes:
        end = min(start + _BLOCK_BYTES, size_bytes)
        block = _read(url, start, end)
        if len(block) > end - start:  # a server without ranges sends all there is
            yield block[start:]
            return
        if not block:
            return
        yield block
        start += len(block)


def shown(text: str) -> str:
    """`text` with URLs as messages may show them: without user, password and query."""
    return _SECRETS.sub(r"\1\2", text)


def number_from(variable: str, default: float) -> float:
    """A positive number of the environment; DataError for anything else."""
    text = os.environ.get(variable, "")
    try:
        number = float(text) if text else default
    except ValueError:
        number = -1.0
    if not 0 < number < float("inf"):
        raise DataError(f"{variable}={text}: not a positive number; mend or unset it")
    return number


# ---- one read --------------------------------------------------------------------------------


class _NotAllowed(DataError):
    """The store refuses access."""


def _protocol(place: str) -> str | None:
    found = _SCHEME.match(place)
    return found[1].lower() if found else None


def _read(url: str, start: int | None = None, end: int | None = None) -> bytes:
    """A range of an object, empty if it begins behind the object's end, or all of it."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return _filesystem(url).cat_file(url, start=start, end=end)
        except DataError:
            raise
        except Exception as error:  # each protocol has exceptions of its own
            if _status(error) == 416:
                return b""
            if attempt == _ATTEMPTS or not _is_transient(error):
                raise _explained(url, error) from error
            _log.warning("%s: %s; trying again", shown(url), _reason(error))
        time.sleep(_wait_seconds(url, attempt))
    raise AssertionError("unreachable")


def _filesystem(url: str) -> Any:
    import fsspec  # here, not above: most runs read folders only

    protocol = _protocol(url)
    seconds = number_from(_TIMEOUT, 60)
    options: dict[str, Any] = {}
    if protocol in ("http", "https"):
        from aiohttp import ClientTimeout

        # Limits how long the server may be silent, not how long the whole answer may take.
        timeout = ClientTimeout(total=None, sock_connect=seconds, sock_read=seconds)
        options["client_kwargs"] = {
            "timeout": timeout,
            "trust_env": True,  # proxies, and credentials from ~/.netrc
            "headers": {
                "Accept-Encoding": "identity"
            },  # otherwise ranges would count compressed bytes
        }
    elif protocol == "s3":
        options["config_kwargs"] = {"connect_timeout": seconds, "read_timeout": seconds}
    elif protocol == "gs":
        options["requests_timeout"] = seconds
    try:
        return fsspec.filesystem(protocol, **options)
    except ImportError as error:
        raise DataError(
            f'{shown(url)}: {protocol} needs an extra; pip install "img2shape[{protocol}]"'
        ) from error


def _status(error: Exception) -> int | None:
    """The HTTP status that an exception stands for, if any."""
    if isinstance(error, FileNotFoundError):
        return 404
    if isinstance(error, PermissionError) or type(error).__name__ == "NoCredentialsError":
        return 403
    if isinstance(error, OSError) and error.errno == errno.EINVAL:
        return 416  # of s3fs
    for name in ("status", "code"):  # of aiohttp and of gcsfs
        number = str(getattr(error, name, ""))
        if number.isdigit():
            return int(number)
    return None


def _is_transient(error: Exception) -> bool:
    from aiohttp import ClientConnectionError, ClientPayloadError, ClientSSLError

    status = _status(error)
    if status is not None:
        return status >= 500 or status in (408, 429)
    broken = (OSError, asyncio.TimeoutError, ClientConnectionError, ClientPayloadError)
    return isinstance(error, broken) and not isinstance(error, ClientSSLError)


def _explained(url: str, error: Exception) -> DataError:
    status = _status(error)
    if status == 404:
        return NotFound(f"{shown(url)}: not found; check the address, or upload it again")
    if status in (401, 403):
        return _NotAllowed(
            f"{shown(url)}: not allowed ({_reason(error)}); check the address and this process's "
            "credentials (environment, ~/.netrc for http)"
        )
    tried = f" in {_ATTEMPTS} attempts" if _is_transient(error) else ""
    return DataError(
        f"{shown(url)}: cannot be read{tried} ({_reason(error)}); check the address and the server"
    )


def _reason(error: Exception) -> str:
    status = getattr(error, "status", None)
    if status:
        return f"HTTP {status}"
    lines = str(error).strip().splitlines()
    return shown(lines[0]) if lines else type(error).__name__


def _wait_seconds(url: str, attempt: int) -> float:
    """Doubles with each attempt, and differs between processes so that they do not ask all at once.

    It uses no random generator, since a run may depend on its state.
    """
    seed = f"{url}/{attempt}/{socket.gethostname()}/{os.getpid()}"
    share = hashlib.sha256(seed.encode()).digest()[0] / 256
    return _FIRST_WAIT_SECONDS * 2 ** (attempt - 1) * (0.5 + share / 2)
