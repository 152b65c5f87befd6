"""Where files are found: the user's folder, the cache, a mirror beside the checkout, or a verified download."""

import errno
import hashlib
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import platformdirs
import pooch
import requests

from vma import files
from vma.errors import InputError

MIB = 2**20
# A lab's local mirror: shared/data beside the checkout, used only where it exists.
LOCAL_MIRROR = Path(__file__).resolve().parents[2].parent / "shared" / "data"
_TIMEOUT = (10.0, 30.0)  # seconds to connect, seconds between two chunks


class BadContent(ValueError):
    """The bytes of a file are not what they should be. The message says in a few words how."""


Decoded = dict[str, np.ndarray]


@dataclass(frozen=True)
class Source:
    """One file that a data set is made of."""

    path: str  # relative to a data folder; the bare file name there is accepted too
    decode: Callable[[bytes], Decoded]  # verifies the content itself; raises BadContent
    max_bytes: int
    digest: str = ""  # of the official bytes, "sha256:..." or "git:..." (a blob's sha1): what a download must have
    urls: tuple[str, ...] = ()  # public homes, tried in order; () where there is none over https

    @property
    def name(self) -> str:
        return Path(self.path).name


def cache_dir() -> Path:
    """The user's cache folder for this suite (XDG_CACHE_HOME counts); it need not exist yet."""
    return Path(platformdirs.user_cache_dir("vma", appauthor=False))


def downloads_dir() -> Path:
    """Where downloaded files are kept, in the layout of a data folder."""
    return cache_dir() / "downloads"


def user_folder(data: Path | None) -> Path | None:
    """The folder that the user named by argument or else by VMA_DATA. InputError where it is no folder."""
    named = data if data is not None else os.environ.get("VMA_DATA")
    if not named:
        return None
    folder = Path(named).expanduser()
    if not folder.is_dir():
        raise InputError(f"{folder}: not a folder; give --data (or VMA_DATA) a folder that holds the data files")
    return folder


def locate(source: Source, folder: Path) -> Path | None:
    """The file in `folder`, in the layout of the mirror or flat."""
    # os.path.isfile and not Path.is_file, which raises where a folder may not be searched.
    return next((path for path in (folder / source.path, folder / source.name) if os.path.isfile(path)), None)


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """The bytes of a file that may not be larger than `max_bytes`. Raises BadContent or OSError."""
    try:
        return files.read_bounded(path, max_bytes)
    except OSError as error:
        if error.errno in (errno.EFBIG, errno.EINVAL):
            raise BadContent(error.strerror) from None
        raise


class _Bounded(io.BytesIO):
    """A buffer for a download that may not grow beyond what is expected."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def write(self, chunk, /) -> int:  # type: ignore[no-untyped-def]
        if self.tell() + len(chunk) > self.limit:
            raise BadContent(f"larger than {self.limit:,} bytes")
        return super().write(chunk)


def fetch(source: Source, progress: bool) -> tuple[bytes | None, list[str]]:
    """(bytes, what failed before) of `source` from the first public home that has the right ones; kept in the cache.

    Bytes are None if no home has them. Nothing is written before its digest is verified. Raises InputError where the
    cache cannot be written.
    """
    attempts = []
    for url in source.urls:
        # Loopback is the one place where there is no line to eavesdrop on; everywhere else https only.
        if not url.startswith(("https://", "http://127.0.0.1:")):
            attempts.append(f"{url}: refused, not https")
            continue
        buffer = _Bounded(source.max_bytes)
        try:
            pooch.HTTPDownloader(progressbar=progress, chunk_size=2**16, timeout=_TIMEOUT)(url, buffer, None)
            raw = buffer.getvalue()
            check_digest(raw, source.digest)
        except (requests.RequestException, BadContent) as error:
            attempts.append(f"{url}: {_one_line(error)}")
            continue
        target = downloads_dir() / source.path
        try:
            files.write_atomic(target, raw)
        except OSError as error:
            raise InputError(
                f"{target}: the download cannot be written ({error.strerror or error}); "
                "free some space, or set XDG_CACHE_HOME to a folder that can be written"
            ) from error
        return raw, attempts
    if not source.urls:
        attempts.append(f"{source.name}: has no public home over https")
    return None, attempts


def check_digest(raw: bytes, digest: str) -> None:
    """Raise BadContent unless `raw` has the digest "sha256:..." or "git:..." (the sha1 of a git blob)."""
    kind, _, expected = digest.partition(":")
    if kind == "git":  # the only hash that a repository's listing gives without the file itself
        actual = hashlib.sha1(b"blob %d\0" % len(raw) + raw, usedforsecurity=False).hexdigest()
    else:
        actual = hashlib.sha256(raw).hexdigest()
    if actual != expected:
        raise BadContent(f"wrong bytes ({kind} {actual[:12]}..., expected {expected[:12]}...)")


def _one_line(error: Exception) -> str:
    # requests nests the reasons of urllib3; the innermost is the one that says what is wrong.
    reason: BaseException = error
    while (inner := reason.__cause__ or reason.__context__) is not None:
        reason = inner
    return f"{type(error).__name__}: {' '.join(str(reason).split())[:200]}"
