"""Servers that answer anything: the next home is tried, nothing wrong enters the cache, each attempt is one line."""

import errno
import gzip
import hashlib
import itertools
import os
import socketserver
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from socket import SHUT_RDWR, socket

import pytest

from benchmarks.plan.cli import EvaluationOptions, open_data, run_command
from vma.data import cache_dir, datasets, download
from vma.data.download import Source, downloads_dir, fetch
from vma.errors import InputError

MIB = 2**20
RIGHT = bytes(range(256)) * 40
MAX_BYTES = 10 * len(RIGHT)
MEMORY = 64 * MIB  # more than before, while all servers are asked at once

Answer = Callable[[socket], None]


def send(*parts: bytes | str) -> Answer:
    """A server that sends this and closes."""
    return lambda to: to.sendall(b"".join(part.encode() if isinstance(part, str) else part for part in parts))


def ok(body: bytes, *headers: str | bytes, length: object = None) -> Answer:
    lines = [f"Content-Length: {len(body) if length is None else length}", *headers]
    return send("HTTP/1.1 200 OK\r\n", *itertools.chain(*((line, "\r\n") for line in lines)), "\r\n", body)


def redirect(place: str | bytes, body: bytes = b"", status: int = 302) -> Answer:
    return send(f"HTTP/1.1 {status} Found\r\nContent-Length: {len(body)}\r\nLocation: ", place, "\r\n\r\n", body)


def endless(start: bytes, again: bytes, pause: float = 0.0) -> Answer:
    """A server that never ends, unless the other side does or the test is over."""

    def answer(to: socket) -> None:
        to.sendall(start)
        while not OVER.wait(pause) if pause else not OVER.is_set():
            to.sendall(again)

    return answer


def slowly(body: bytes, pause: float) -> Answer:
    """A server that sends ten chunks."""

    def answer(to: socket) -> None:
        to.sendall(CHUNKED)
        for start in range(0, len(body), len(body) // 10):
            OVER.wait(pause)
            to.sendall(b"%x\r\n" % (len(body) // 10) + body[start : start + len(body) // 10] + b"\r\n")
        to.sendall(b"0\r\n\r\n")

    return answer


def silent(to: socket) -> None:
    OVER.wait()


OVER = threading.Event()
HEAD = b"HTTP/1.1 200 OK\r\n"
LONG = HEAD + b"Content-Length: 10240\r\n\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
BOMB = gzip.compress(bytes(2**26))
HOSTILE: dict[str, Answer] = {
    **{f"status {s}": send(f"HTTP/1.1 {s} No\r\n\r\n", RIGHT) for s in (400, 401, 403, 404, 407, 410, 429, 500, 503)},
    **{f"status {s}": send(f"HTTP/1.1 {s} Odd\r\n\r\n") for s in (204, 206, 300, 304, 101, 199, 600, 999)},
    "closed at once": send(),
    "silent": silent,
    "silent in the middle": endless(LONG + RIGHT[:5000], b"", pause=0.05),
    "a byte at a time": endless(LONG, b"a", pause=0.02),
    "go on for ever": endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n", pause=0.01),
    "half a file": ok(RIGHT[:5000], length=len(RIGHT)),
    "half a file, length unknown": send(HEAD, "\r\n", RIGHT[:5000]),
    "half a chunk": send(CHUNKED, "1000\r\n", RIGHT[:100]),
    "chunk of no size": send(CHUNKED, "zz\r\n", RIGHT),
    "chunk of a size beyond all memory": send(CHUNKED, "F" * 30, "\r\n", RIGHT),
    "endless trailer": endless(CHUNKED + b"0\r\n", b"X: y\r\n"),
    "wrong bytes": ok(RIGHT[:-1] + b"x"),
    "too large": ok(bytes(MAX_BYTES + 1)),
    "endless bytes": endless(HEAD + b"\r\n", bytes(2**14)),
    "endless header": endless(HEAD + b"X: ", b"y" * 4096),
    "endless headers": endless(HEAD, b"X: y\r\n"),
    "length of no number": ok(b"", length="abc"),
    "length beyond all": ok(b"wrong", length=10**30),
    "bomb in gzip": ok(BOMB, "Content-Encoding: gzip"),
    "right bytes in gzip, not asked for": ok(gzip.compress(RIGHT), "Content-Encoding: gzip"),
    "not HTTP": send("SSH-2.0-OpenSSH_9.2\r\n"),
    "reason in no encoding": send(b"HTTP/1.1 404 \xff\xfe\x85\xe2\x80\xa8 \x1b[2J \x00 no\r\n\r\n"),
    "reason of two lines": send("HTTP/1.1 404 no\rError: all is lost\x0b\x0cmore\r\n\r\n"),
    "redirect to a file": redirect("file:///etc/passwd"),
    "redirect to ftp": redirect("ftp://example.org/right"),
    "redirect to http": redirect("http://example.org/right"),
    "redirect to nowhere": redirect(""),
    "redirect to half an address": redirect("https://[::1"),
    "redirect to a closed port": redirect("https://127.0.0.1:1/"),
    "redirect to plain bytes": redirect(b"https://\xff\xfe\x00 \xe2\x80\xa8/"),
    "redirects without end": redirect("/redirects without end?x", status=307),
    "redirect with endless bytes": endless(b"HTTP/1.1 302 Found\r\nLocation: /wrong bytes\r\n\r\n", bytes(2**14)),
    "redirect without a place": send("HTTP/1.1 302 Found\r\n\r\n"),
}
HARMLESS: dict[str, Answer] = {
    "right": ok(RIGHT),
    "right, of unknown length": send(HEAD, "\r\n", RIGHT),
    "right, in chunks": send(
        CHUNKED, *[b"%x\r\n" % 256 + RIGHT[i : i + 256] + b"\r\n" for i in range(0, 10240, 256)], "0\r\n\r\n"
    ),
    "right, with large headers": ok(RIGHT, *[f"X-{i}: {'y' * 50_000}" for i in range(90)]),
    "right, with odd headers": ok(RIGHT, b"Set-Cookie: \xff\x00", "Content-Disposition: attachment; filename=../../x"),
    "right, for longer than the grace": slowly(RIGHT, pause=0.2),
    "right, after five redirects": redirect("/4"),
    **{str(i): redirect(f"/{i - 1}" if i > 1 else "/right") for i in (1, 2, 3, 4)},
    "right, after a redirect with a body": redirect("/right", body=bytes(10**6)),
}


class Handler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        request = b""
        while b"\r\n\r\n" not in request and (got := self.request.recv(2**16)):
            request += got
        path = request.split(b" ", 2)[1].decode().lstrip("/").replace("%20", " ").partition("?")[0]
        try:
            (HOSTILE | HARMLESS)[path](self.request)
            self.request.shutdown(SHUT_RDWR)
        except OSError:
            pass  # the other side has had enough


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with Server(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}/"
        OVER.set()
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _impatient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    # as long as a busy machine may keep the right server waiting
    monkeypatch.setattr(download, "_TIMEOUT", (30.0, 15.0))
    monkeypatch.setattr(download, "_GRACE", 20.0)


def source(*urls: str, path: str = "some/file.bin") -> Source:
    digest = hashlib.sha256(RIGHT).hexdigest()
    return Source(path, lambda raw: {}, max_bytes=MAX_BYTES, digests=(f"sha256:{digest}",), urls=urls)


def cached() -> list[Path]:
    return [path for path in cache_dir().rglob("*") if not path.is_dir()]


def one_line(text: str) -> bool:
    return text.isprintable() and len(text) < 600


def test_the_next_home_is_tried_and_nothing_wrong_is_cached(server: str, peak: Callable[[], int]) -> None:
    def ask(name: str, path: str) -> str:
        url = server + name
        try:
            raw, attempts = fetch(source(url, server + "right", path=path), progress=False)
        except Exception as error:
            return repr(error)
        if raw != RIGHT or (downloads_dir() / path).read_bytes() != RIGHT:
            return f"the next home's bytes are not what came, or not what is in the cache, after {attempts}"
        if len(attempts) != 1 or not attempts[0].startswith(url + ": ") or not one_line(attempts[0]):
            return f"not one line but {attempts}"
        return ""

    paths = {name: f"{i}.bin" for i, name in enumerate(HOSTILE)}
    with ThreadPoolExecutor(16) as threads:  # most of them are waited for
        wrong = dict(zip(paths, threads.map(ask, paths, paths.values()), strict=True))
    failures = [f"{name}: {cause}" for name, cause in wrong.items() if cause]
    if (grown := peak()) > MEMORY:
        failures.append(f"{grown / MIB:,.0f} MiB of memory")
    assert not failures, "\n".join(failures)
    assert {str(path.relative_to(downloads_dir())) for path in cached()} == set(paths.values())


def test_what_is_odd_and_right_is_taken(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_GRACE", 1.5)
    monkeypatch.setattr(download, "_LEAST_RATE", 1024)
    for name in HARMLESS:
        assert fetch(source(server + name), progress=True) == (RIGHT, []), name
        assert cached() == [downloads_dir() / "some/file.bin"]
        cached()[0].unlink()


def test_a_digest_of_either_kind_will_do(server: str) -> None:
    blob = hashlib.sha1(b"blob %d\0" % len(RIGHT) + RIGHT).hexdigest()
    right = source(server + "right")
    for digests in ((f"git:{blob}",), ("sha256:" + "0" * 64, *right.digests)):
        assert fetch(replace(right, digests=digests), progress=False) == (RIGHT, [])


def test_a_full_disk_is_one_line(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\); free some space"):
        fetch(source(server + "right"), progress=False)
    assert not cached()


def test_plain_http_is_refused_whatever_it_is_called() -> None:
    urls = (
        *("http://example.org/right", "http://localhost:80/right", "http://127.0.0.1.example.org:80/right"),
        *("http://127.0.0.1:80@example.org/right", "HTTP://example.org/right", "//example.org/right"),
        *("ftp://127.0.0.1/right", "file:///etc/passwd", "/etc/passwd", ""),
    )
    raw, attempts = fetch(source(*urls), progress=False)
    failures = [line for line, url in zip(attempts, urls, strict=True) if line != f"{url}: refused, not https"]
    assert not failures
    assert raw is None
    assert not cached()


def test_a_command_ends_with_every_attempt_in_a_line(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    names = [
        *(f"status {code}" for code in (404, 403, 500)),
        *("closed at once", "silent", "a byte at a time", "half a file", "wrong bytes", "endless bytes"),
        *("redirect to ftp", "redirect to http", "redirects without end", "reason in no encoding"),
    ]
    urls = [server + name for name in names]
    monkeypatch.setattr(download, "_TIMEOUT", (5.0, 0.3))
    monkeypatch.setattr(download, "_GRACE", 0.6)
    recipe = datasets._Recipe(28, lambda: (), ((source(*urls),),))
    monkeypatch.setitem(datasets._RECIPES, "hostile", recipe)
    monkeypatch.setattr(download, "LOCAL_MIRROR", tmp_path / "mirror")
    code = run_command(EvaluationOptions, lambda options: open_data(options, "hostile"), "benchmarks.table1", [])
    said = capfd.readouterr()
    lines = said.err[said.err.index("error: ") :].splitlines()
    assert code == 2
    assert said.out == ""
    assert lines[0].startswith("error: hostile: file.bin was found nowhere; give a data folder with some/file.bin")
    assert lines[-1].endswith("python -m benchmarks.table1 --dataset strokes")
    for place, line in zip(("data or VMA_DATA", "cache", "mirror", *urls), lines[1:-1], strict=True):
        assert line.startswith(f"  tried {place}")
    assert not cached()
