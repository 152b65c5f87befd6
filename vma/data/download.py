"""Where files are found: the user's folder, the cache, a mirror beside the checkout, or a verified download."""

import errno
import hashlib
import io
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin

import numpy as np
import platformdirs
import requests
import urllib3
from tqdm import tqdm

from vma import files
from vma.errors import InputError

MIB = 2**20
# A lab's local mirror: shared/data beside the checkout, used only where it exists.
LOCAL_MIRROR = Path(__file__).resolve().parents[2].parent / "shared" / "data"
_TIMEOUT = (10.0, 30.0)  # seconds to connect, seconds between two packets
_GRACE = 60.0  # seconds after which a home is given up that has sent less than this, in bytes a second
_LEAST_RATE = 8 * 2**10
_MAX_REDIRECTS = 5


def printable(text: object) -> str:
    """`text` in one line, whatever a server, an archive or a file name has put into it: control characters escaped."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in str(text))


class BadContent(ValueError):
    """The bytes of a file are not what they should be. The message says in a few words of one line how."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message[:300]))


Decoded = dict[str, np.ndarray]


@dataclass(frozen=True)
class Source:
    """One file that a data set is made of."""

    path: str  # relative to a data folder; the bare file name there is accepted too
    decode: Callable[[bytes], Decoded]  # never sees bytes that have none of `digests`
    max_bytes: int
    digests: tuple[str, ...]  # of the archives that exist: "sha256:...", or "git:..." (the sha1 of a git blob)
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
    # os.path, and not Path, whose methods raise for an unknown user's home and a name that is too long.
    folder = Path(os.path.expanduser(named))
    if not os.path.isdir(folder):
        raise InputError(
            f"{printable(folder)}: not a folder; give data (or VMA_DATA) a folder that holds the data files"
        )
    return folder


def locate(source: Source, folder: Path) -> Path | None:
    """What stands in `folder` under the name of the file, in the layout of the mirror or flat; it may be no file."""
    # What is there and cannot be read, a pipe or a broken link, is an error to be reported and not an absence.
    return next((path for path in (folder / source.path, folder / source.name) if os.path.lexists(path)), None)


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """The bytes of a file that may not be larger than `max_bytes`. Raises BadContent or OSError."""
    try:
        return files.read_bounded(path, max_bytes)
    except OSError as error:
        if error.errno in (errno.EFBIG, errno.EINVAL):
            raise BadContent(str(error.strerror)) from None
        raise


def read_verified(source: Source, path: Path) -> bytes:
    """The bytes of a file of a source, which have one of its digests. Raises BadContent or OSError."""
    raw = read_bounded(path, source.max_bytes)
    check_digest(raw, source.digests)
    return raw


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
        try:
            raw = _download(url, source.max_bytes, progress)
            check_digest(raw, source.digests)
        # ValueError: what is no URL, in a redirect; BadContent is one too.
        except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
            attempts.append(f"{url}: {_reason(error)}")
            continue
        target = downloads_dir() / source.path
        try:
            files.write_atomic(target, raw)
        except OSError as error:
            raise InputError(
                f"{printable(target)}: the download cannot be written ({error.strerror or error}); "
                "free some space, or set XDG_CACHE_HOME to a folder that can be written"
            ) from error
        return raw, attempts
    if not source.urls:
        attempts.append(f"{source.name}: has no public home over https")
    return None, attempts


def _download(url: str, max_bytes: int, progress: bool) -> bytes:
    """What `url` has. Raises BadContent where that is too much or comes too slowly, and what requests raises."""
    buffer = _Bounded(max_bytes)
    done = Future[None]()
    with tqdm(unit="B", unit_scale=True, ncols=79, delay=1, disable=not progress) as bar:

        def run() -> None:
            try:
                _stream(url, buffer, bar)
            except BaseException as error:
                done.set_exception(error)
            else:
                done.set_result(None)

        # A thread of its own, since a server can prolong each step, a packet at a time, and requests has no timeout on
        # the whole: where it is too slow it is left behind.
        threading.Thread(target=run, daemon=True).start()
        start = time.monotonic()
        while (patience := start + _GRACE + buffer.tell() / _LEAST_RATE - time.monotonic()) > 0:
            if wait([done], patience).done:
                done.result()
                return buffer.getvalue()
        buffer.limit = 0  # ends the thread at its next packet
        raise BadContent(f"slower than {_LEAST_RATE:,} bytes a second")


def _stream(url: str, buffer: _Bounded, bar: tqdm) -> None:
    """Write into `buffer` what `url` has, or the place that it redirects to."""
    with requests.Session() as session:
        for hop in range(1 + _MAX_REDIRECTS):
            # By the parser that requests goes by: another one may find another host in the same text.
            home = urllib3.util.parse_url(url)
            # Loopback is the one place where there is no line to eavesdrop on; everywhere else https only.
            if home.scheme != "https" and (home.scheme, home.host) != ("http", "127.0.0.1"):
                raise BadContent("refused, not https" + (f" (redirected to {url})" if hop else ""))
            request = session.prepare_request(requests.Request("GET", url, headers={"Accept-Encoding": "identity"}))
            settings = session.merge_environment_settings(url, {}, stream=True, verify=None, cert=None)
            # By the adapter: the session itself reads the whole body of a redirect, however large, followed or not.
            with session.get_adapter(url).send(request, timeout=_TIMEOUT, **settings) as response:
                if response.is_redirect:
                    url = urljoin(url, response.headers["Location"])
                    continue
                response.raise_for_status()
                if (encoding := response.headers.get("Content-Encoding", "identity").lower()) != "identity":
                    raise BadContent(f"refused, sent with encoding {encoding}")  # a few bytes could become gigabytes
                bar.total = response.raw.length_remaining
                for chunk in response.iter_content(2**16):
                    buffer.write(chunk)
                    bar.update(len(chunk))
                return
    raise BadContent(f"more than {_MAX_REDIRECTS} redirects")


def check_digest(raw: bytes, digests: tuple[str, ...]) -> None:
    """Raise BadContent unless `raw` has one of the digests, see `Source`."""
    for kind, _, expected in (digest.partition(":") for digest in digests):
        # git's is the only hash that a repository's listing gives without the file itself
        actual = _git_sha1(raw) if kind == "git" else hashlib.sha256(raw).hexdigest()
        if actual == expected:
            return
    known = " or ".join(digest.partition(":")[2][:12] + "..." for digest in digests)
    raise BadContent(f"wrong bytes ({kind} {actual[:12]}..., expected {known})")


def _git_sha1(raw: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(raw) + raw, usedforsecurity=False).hexdigest()


def _reason(error: Exception) -> str:
    if isinstance(error, BadContent):
        return str(error)
    # requests nests the reasons of urllib3; the innermost is the one that says what is wrong.
    reason: BaseException = error
    while (inner := reason.__cause__ or reason.__context__) is not None:
        reason = inner
    return f"{type(error).__name__}: {printable(str(reason)[:200])}"
