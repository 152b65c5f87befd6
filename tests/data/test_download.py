"""Downloads against a server on loopback: the mirrors in turn, and nothing unverified in the cache."""

import errno
import hashlib
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from vma.data.download import Source, cache_dir, downloads_dir, fetch
from vma.errors import InputError

RIGHT = bytes(range(256)) * 40
SHA256 = f"sha256:{hashlib.sha256(RIGHT).hexdigest()}"
GIT = f"git:{hashlib.sha1(b'blob %d' % len(RIGHT) + bytes(1) + RIGHT).hexdigest()}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/missing":
            self.send_error(404)
            return
        body = {"/right": RIGHT, "/wrong": RIGHT[:-1] + b"x", "/short": RIGHT[:100], "/large": RIGHT * 20}[self.path]
        self.send_response(200)
        self.send_header("Content-Length", str(len(RIGHT) if self.path == "/short" else len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def source(*urls: str, digests: tuple[str, ...] = (SHA256,)) -> Source:
    return Source("some/file.bin", lambda raw: {}, max_bytes=len(RIGHT) * 10, digests=digests, urls=urls)


def cached() -> list[Path]:
    return [path for path in cache_dir().rglob("*") if path.is_file()]


@pytest.mark.parametrize("digests", [(SHA256,), (GIT,), ("sha256:" + "0" * 64, SHA256)])
@pytest.mark.parametrize("progress", [True, False])
def test_mirrors_in_turn_until_one_is_right(server: str, digests: tuple[str, ...], progress: bool) -> None:
    urls = [server + path for path in ("missing", "wrong", "short", "large", "right", "never asked")]
    raw, attempts = fetch(source(*urls, digests=digests), progress)
    assert raw == RIGHT
    assert [line.split(": ")[0] for line in attempts] == urls[:4]
    assert [any(word in line for line in attempts) for word in ("404", "wrong bytes", "larger than")] == [True] * 3
    assert cached() == [downloads_dir() / "some/file.bin"]
    assert cached()[0].read_bytes() == RIGHT


def test_full_disk_is_one_line(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\); free some space"):
        fetch(source(server + "right"), progress=False)
    assert not cached()
