"""Decoding: content hashes accept any compression and refuse one wrong pixel; caps hold; damage is one line."""

import hashlib
import io
import struct
import zipfile
import zlib

import numpy as np
import pytest
import scipy.io
from PIL import Image

from vma.data.archives import read_amat, read_chardata, read_gmn_npz, read_made_npz, read_omniglot_zip
from vma.data.download import BadContent

Members = dict[str, bytes]


def _zip(members: Members, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def _png(ink: np.ndarray, mode: str = "1") -> bytes:
    file = io.BytesIO()
    Image.fromarray(~ink).convert(mode).save(file, "PNG")
    return file.getvalue()


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


HUGE_PNG = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 1, 0, 0, 0, 0))
INK = {
    f"images/Alpha{c % 2}/character{c:02}/0{c:03}_0{d}.png": np.random.default_rng((c, d)).random((105, 105)) < 0.1
    for c in (3, 1, 2)
    for d in (2, 1)
}
CONTENT = hashlib.sha256(
    b"".join(name.encode() + b"\0" + np.packbits(INK[name]).tobytes() for name in sorted(INK))
).hexdigest()


def _members() -> Members:
    return {name: _png(ink) for name, ink in INK.items()}


@pytest.mark.parametrize("extra", [{}, {"images/": b"", "__MACOSX/images/._x.png": b"x", "images/.DS_Store": b"x"}])
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_omniglot_content_is_what_counts(compression: int, extra: Members) -> None:
    classes = read_omniglot_zip(_zip(extra | _members(), compression), root="images", content=CONTENT)
    assert sorted(classes) == ["Alpha0/character02", "Alpha1/character01", "Alpha1/character03"]
    assert np.array_equal(classes["Alpha1/character03"][1], INK["images/Alpha1/character03/0003_02.png"])


def _flipped() -> Members:
    name = sorted(INK)[2]
    ink = INK[name].copy()
    ink[50, 50] ^= True
    return _members() | {name: _png(ink)}


NAME = sorted(INK)[0]


@pytest.mark.parametrize(
    ("raw", "cause"),
    [
        (_zip(_flipped()), "not the official ones"),
        (_zip({k: v for k, v in _members().items() if k != NAME}), "not the official ones"),
        (_zip(_members())[:-40], "not a whole zip"),
        (_zip(_members())[:500], "not a whole zip"),
        (b"", "not a whole zip"),
        (_zip(_members())[:200] + b"\xff" * 40 + _zip(_members())[240:], "damaged"),
        (_zip(_members() | {"/images/Alpha0/character01/0001_01.png": b""}), "unsafe member name"),
        (_zip(_members() | {"images/../../0001_01.png": b""}), "unsafe member name"),
        (_zip(_members() | {"C:images/0001_01.png": b""}), "unsafe member name"),
        (_zip(_members() | {"images\\0001_01.png": b""}), "unsafe member name"),
        (_zip(_members() | {"images/other.txt": b""}), "unexpected member"),
        (_zip(_members() | {NAME: b"no image"}), "no image that can be read"),
        (_zip(_members() | {NAME: _png(INK[NAME])[:60]}), "damaged"),
        (_zip(_members() | {NAME: _png(INK[NAME], "L")}), "not a 1-bit image"),
        (_zip(_members() | {NAME: _png(INK[NAME][:100])}), "not a 1-bit image of 105x105"),
        (_zip(_members() | {NAME: HUGE_PNG}), "no image that can be read"),
        (_zip(_members(), zipfile.ZIP_BZIP2), "method 12, not stored or deflated"),
        (_zip(_members(), zipfile.ZIP_LZMA), "method 14, not stored or deflated"),
        (_zip({f"{i}": b"" for i in range(40_001)}, zipfile.ZIP_STORED), "40,001 members, more than 40,000"),
        (_zip({"images/zeros": bytes(33 * 2**20)}), "bytes uncompressed"),
    ],
    ids=range(20),
)
def test_omniglot_refusals(raw: bytes, cause: str) -> None:
    with pytest.raises(BadContent, match=cause) as caught:
        read_omniglot_zip(raw, root="images", content=CONTENT)
    assert "\n" not in str(caught.value)


def test_member_that_lies_about_its_size() -> None:
    raw = _zip({NAME: bytes(2**20)})
    size = struct.pack("<I", 2**20)
    assert raw.count(size) == 2
    with pytest.raises(BadContent, match="damaged"):
        read_omniglot_zip(raw.replace(size, struct.pack("<I", 100)), root="images", content=CONTENT)


def test_member_that_occurs_twice() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(NAME, b"")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr(NAME, b"")
    with pytest.raises(BadContent, match="occurs twice"):
        read_omniglot_zip(file.getvalue(), root="images", content=CONTENT)


def test_members_that_overlap() -> None:
    # Each of them all of the archive's bytes, decompressed once for each.
    with zipfile.ZipFile(io.BytesIO(_zip({f"{i}": bytes(10**5) for i in range(5)}))) as archive:
        infos = archive.infolist()
    raw = _zip({f"{i}": bytes(10**5) for i in range(5)})
    for info in infos:
        size = struct.pack("<III", info.CRC, info.compress_size, info.file_size)
        raw = raw.replace(size, struct.pack("<III", info.CRC, len(raw) // 2, info.file_size))
    with pytest.raises(BadContent, match="members that overlap"):
        read_gmn_npz(raw, below=128, content="0" * 64)


def test_member_beyond_what_can_be_addressed() -> None:
    raw = _zip({NAME: b"x"})
    table = raw.index(b"PK\1\2")
    extra = struct.pack("<HHQ", 1, 8, 2**64 - 1)
    entry = bytearray(raw[table : table + 46 + len(NAME)])
    entry[30:32], entry[42:46] = struct.pack("<H", len(extra)), b"\xff" * 4
    end = bytearray(raw[-22:])
    end[12:16] = struct.pack("<I", len(entry) + len(extra))
    with pytest.raises(BadContent, match="damaged"):
        read_omniglot_zip(raw[:table] + bytes(entry) + extra + bytes(end), root="images", content=CONTENT)


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, allow_pickle=False)
    return file.getvalue()


@pytest.mark.parametrize(
    ("npy", "cause"),
    [
        (_npy(np.zeros(1, np.uint64)).replace(b"'<u8',", b"'|O',").replace(b"}", b"} "), "not numbers"),
        (_npy(np.zeros((2, 784), np.uint8))[:-1], "damaged"),
        (_npy(np.zeros((2, 784), np.uint8)).replace(b"(2, 784)", b"(9, 784)"), "damaged"),
        (_npy(np.zeros((2, 784), np.uint8)).replace(b"(2, 784)", b"(9**9,)"), "damaged"),
        (_npy(np.zeros((2, 784), np.uint8)).replace(b"(2, 784)", b"(0, 10000000000000000000000)"), "damaged"),
        (_npy(np.zeros((2, 784), np.uint8)).replace(b"(2, 784)", b"(-1, 784)"), "damaged"),
        (_npy(np.zeros((2, 784), np.uint8)).replace(b"'|u1'", b"'|u3'"), "damaged"),
        (_npy(np.zeros((2, 785), np.uint8)), "not of 28x28 images"),
        (_npy(np.zeros(784, "U1")), "not numbers"),
        (_npy(np.zeros(784, [("a", "u1")])), "no|none"),
        (b"\x93NUMPY\1\0\xff\xff" + b"(" * 9_000 + b"\n", "damaged"),
        (b"\x93NUMPY", "damaged"),
        (b"", "damaged"),
        (_npy(np.zeros((2, 784), np.uint8)), "not the official ones"),
    ],
    ids=range(14),
)
def test_npz_refusals(npy: bytes, cause: str) -> None:
    with pytest.raises(BadContent, match=cause):
        read_gmn_npz(_zip({"key.npy": npy}), below=128, content="0" * 64)


@pytest.mark.parametrize("below", [128, None])
def test_gmn_forms(below: int | None) -> None:
    ink = np.random.default_rng(0).random((3, 28, 28)) < 0.2
    array = np.where(ink, 0, 255).astype(np.uint8).reshape(3, 784) if below else ink.astype(np.float32)
    content = hashlib.sha256(b"key\0" + np.packbits(ink).tobytes()).hexdigest()
    for stored in (array, np.asfortranarray(array)):
        assert np.array_equal(read_gmn_npz(_zip({"key.npy": _npy(stored)}), below=below, content=content)["key"], ink)


def test_headers_of_older_and_newer_numpy() -> None:
    ink = np.random.default_rng(0).random((2, 784)) < 0.2
    content = hashlib.sha256(b"key\0" + np.packbits(ink).tobytes()).hexdigest()
    newer = io.BytesIO()
    np.lib.format.write_array(newer, ink, version=(2, 0), allow_pickle=False)
    old = b"{'descr': '|b1', 'fortran_order': False, 'shape': (2L, 784L), }\n"
    older = b"\x93NUMPY\1\0" + struct.pack("<H", len(old)) + old + ink.tobytes()
    for npy in (_npy(ink), newer.getvalue(), older):
        images = read_gmn_npz(_zip({"key.npy": npy}), below=None, content=content)["key"]
        assert np.array_equal(images.reshape(2, 784), ink)


def test_a_pixel_short_of_the_same_hash() -> None:
    ink = np.zeros(784, bool)  # the hash is of packed bits, whose last ones may be no pixels
    content = hashlib.sha256(b"key\0" + np.packbits(ink).tobytes()).hexdigest()
    with pytest.raises(BadContent, match="not of 28x28 images"):
        read_gmn_npz(_zip({"key.npy": _npy(ink[:-1])}), below=None, content=content)


def _amat(ink: np.ndarray) -> bytes:
    return "".join(" ".join(map(str, row)) + "\n" for row in ink.astype(int).reshape(len(ink), 784)).encode()


LAROCHELLE = {
    split: np.random.default_rng(i).random((i + 2, 28, 28)) < 0.2 for i, split in enumerate(["train", "test"])
}
AMAT_SHA256 = {split: hashlib.sha256(_amat(ink)).hexdigest() for split, ink in LAROCHELLE.items()}


def test_larochelle_from_text() -> None:
    text, content = _amat(LAROCHELLE["test"]), AMAT_SHA256["test"]
    for raw in (text, text.replace(b"\n", b" \r\n")):
        assert np.array_equal(read_amat(raw, split="test", content=content)["test"], LAROCHELLE["test"])
    wrong = text[:200] + bytes([text[200] ^ 1]) + text[201:]
    for raw, cause in (
        (wrong, "not the official"),
        (text[:-9], "784 digits"),
        (text.replace(b"1", b"2"), "784 digits"),
    ):
        with pytest.raises(BadContent, match=cause):
            read_amat(raw, split="test", content=content)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
def test_larochelle_from_made_gives_the_bytes_of_the_text(dtype: type) -> None:
    members = {f"{split}_data.npy": _npy(ink.reshape(-1, 784).astype(dtype)) for split, ink in LAROCHELLE.items()}
    members["inputsize.npy"] = _npy(np.array([784]))
    arrays = read_made_npz(_zip(members), content=AMAT_SHA256)
    assert all(np.array_equal(arrays[split], ink) for split, ink in LAROCHELLE.items())
    with pytest.raises(BadContent, match="not the official ones"):
        read_made_npz(_zip(members | {"test_data.npy": members["train_data.npy"]}), content=AMAT_SHA256)
    del members["test_data.npy"]
    with pytest.raises(BadContent, match="no array 'test_data'"):
        read_made_npz(_zip(members), content=AMAT_SHA256)


def test_chardata_columns_are_images_column_by_column() -> None:
    images = {key: np.random.default_rng(n).random((n, 28, 28)) for key, n in (("data", 3), ("testdata", 2))}
    file = io.BytesIO()
    scipy.io.savemat(file, {key: np.stack([x.flatten("F") for x in part], axis=1) for key, part in images.items()})
    raw = file.getvalue()
    digest = f"git:{hashlib.sha1(b'blob %d' % len(raw) + bytes(1) + raw).hexdigest()}"
    decoded = read_chardata(raw, digest=digest)
    assert np.array_equal(decoded["train"], images["data"])
    assert np.array_equal(decoded["test"], images["testdata"])
    with pytest.raises(BadContent, match="wrong bytes"):
        read_chardata(raw[:-1] + b"\0", digest=digest)


@pytest.mark.parametrize(
    ("wrong", "cause"),
    [
        ({}, "no array 'testdata' of 784 rows"),
        ({"testdata": np.zeros((3, 784))}, "no array 'testdata' of 784 rows"),
        ({"testdata": np.zeros((784, 0))}, "no array 'testdata' of 784 rows"),
        ({"testdata": np.zeros((784, 3), np.uint8)}, "no array 'testdata' of 784 rows"),
        ({"testdata": "text"}, "no array 'testdata' of 784 rows"),
        ({"testdata": np.full((784, 3), 1.1)}, "grey levels outside"),
        ({"testdata": np.full((784, 3), np.nan)}, "grey levels outside"),
    ],
    ids=range(7),
)
def test_chardata_of_another_form(wrong: dict[str, object], cause: str) -> None:
    file = io.BytesIO()
    scipy.io.savemat(file, {"data": np.zeros((784, 3)), **wrong})
    for raw, cause_ in ((file.getvalue(), cause), (b"", "not a MATLAB file"), (bytes(500), "not a MATLAB|no array")):
        with pytest.raises(BadContent, match=cause_):
            read_chardata(raw, digest=f"sha256:{hashlib.sha256(raw).hexdigest()}")


def test_chardata_is_parsed_only_where_its_bytes_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scipy.io, "loadmat", lambda *_, **__: pytest.fail("the parser saw them"))
    with pytest.raises(BadContent, match="wrong bytes"):
        read_chardata(b"MATLAB 5.0", digest="git:" + "0" * 40)
