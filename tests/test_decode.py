"""Photographs are read for what they are, and what is not pixels never costs them."""

import io
import os
import random
import socket
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from frcore.io import decode as module
from frcore.io import glance as large
from frcore.io.colours import BadProfile, profile_of
from frcore.io.decode import BadImage, decode
from frcore.io.images import read_image, read_images, read_photo, write_image

SIDE = 48


def picture(mode="RGB"):
    """Smooth, and different in every corner."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    pixels = np.stack([0.1 + 0.8 * x, 0.1 + 0.8 * y, 0.5 + 0.3 * np.sin(4 * x) * y], axis=-1)
    return Image.fromarray(np.uint8(255 * pixels)).convert(mode)


GREY = np.asarray(picture("L")).astype(float)


def difference(a, b) -> int:
    return int(np.abs(np.asarray(a, int) - np.asarray(b, int)).max())


def mean_difference(a, b) -> float:
    return float(np.abs(np.asarray(a, float) - np.asarray(b, float)).mean())


# ---- depths


@pytest.mark.parametrize(
    ("values", "note"),
    [
        (GREY / 255, ""),
        (GREY / 255 * 1.08, ""),  # a filter overshoots
        (GREY, ""),
        (GREY * 257, "scaled from 0.."),
        (GREY / 255 * 4095, "scaled from 0.."),
        (GREY / 255 * 1e6, "scaled from 0.."),
        (GREY / 127.5 - 1, "scaled from -"),
        (-GREY / 255, "scaled from -"),
    ],
    ids=["1", "1.08", "255", "65535", "12 bit", "million", "-1..1", "negative"],
)
def test_float_of_any_range(tmp_path, values, note):
    values = values.astype(np.float32)
    Image.fromarray(values).save(tmp_path / "x.tif")
    found = decode(tmp_path / "x.tif")
    assert note in "; ".join(found.notes)
    grey = np.asarray(found.image)[..., 0].astype(float)
    # the order of the values is kept, and so is the contrast
    assert np.corrcoef(grey.ravel(), values.ravel())[0, 1] > 0.99
    assert np.ptp(grey) > 150 and 60 < grey.mean() < 200


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, 1e30], ids=str)
def test_one_odd_value_does_not_decide(tmp_path, odd):
    values = (GREY / 255).astype(np.float32)
    values[3, 4] = odd
    Image.fromarray(values).save(tmp_path / "x.tif")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = decode(tmp_path / "x.tif")
    pixels = np.asarray(found.image)[..., 0].astype(float)
    assert abs(pixels - GREY).mean() < 2
    assert ("not finite" in "; ".join(found.notes)) == (not np.isfinite(odd))


def test_a_picture_of_no_values_is_refused(tmp_path):
    Image.fromarray(np.full((4, 4), np.nan, np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(BadImage, match="no finite values"):
        decode(tmp_path / "x.tif")


@pytest.mark.parametrize("kind", ["png", "tif", "tif32", "pgm"])
def test_sixteen_bits(tmp_path, kind):
    values = (GREY * 257).astype(np.int32 if kind == "tif32" else np.uint16)
    path = tmp_path / f"x.{kind[:3]}"
    Image.fromarray(values).save(path)
    assert difference(np.asarray(decode(path).image)[..., 0], GREY) <= 1


def test_few_of_sixteen_bits_are_noted_and_declared_ones_used(tmp_path):
    values = np.uint16(GREY / 255 * 4095)
    Image.fromarray(values).save(tmp_path / "x.tif")
    [*_, note] = decode(tmp_path / "x.tif").notes
    assert "fewer bits" in note
    Image.fromarray(values).save(tmp_path / "y.tif", tiffinfo={281: 4095})
    assert difference(np.asarray(decode(tmp_path / "y.tif").image)[..., 0], GREY) <= 1


def test_transparency_of_sixteen_bits_does_not_clip(tmp_path):
    values = np.uint16(GREY * 257)
    values[0, 0] = 0
    Image.fromarray(values).save(tmp_path / "x.png", transparency=0)
    found = decode(tmp_path / "x.png")
    assert difference(np.asarray(found.image)[1:, 1:, 0], GREY[1:, 1:]) <= 1
    assert found.alpha is not None and found.alpha.getpixel((0, 0)) == 0
    assert found.alpha.getpixel((9, 9)) == 255


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "LA", "PA", "RGBA", "CMYK", "YCbCr", "LAB"])
def test_modes(tmp_path, mode):
    whole = picture(mode) if mode != "LAB" else _lab(picture())
    name = "x.tif" if mode in ("CMYK", "YCbCr", "LAB") else "x.png"
    if mode == "PA":
        whole = picture("P").convert("PA").convert("P")
        whole.save(tmp_path / name, transparency=3)
    else:
        whole.save(tmp_path / name)
    kept = mode if mode in ("1", "L", "P") else {"LA": "L", "PA": "P"}.get(mode, "RGB")
    wanted = picture(kept)
    mean = np.abs(np.asarray(read_photo(tmp_path / name), int) - np.asarray(wanted.convert("RGB")))
    assert mean.mean() < 8  # palettes and inks are coarse


def _lab(image):
    lab = ImageCms.createProfile("LAB")
    return ImageCms.profileToProfile(image, ImageCms.createProfile("sRGB"), lab, outputMode="LAB")


# ---- colours


def icc(red=(0.64, 0.33), green=(0.21, 0.71), blue=(0.15, 0.06), gamma=2.2, space=b"RGB "):
    """A matrix profile (of Adobe RGB's colours by default) or, for GRAY, one of a curve alone."""

    def xyz(x, y, z):
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in (x, y, z)))

    # primaries and white to XYZ, then adapted to D50 by Bradford's transform
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in (red, green, blue)]).T
    white = np.array([0.9505, 1, 1.089])
    matrix = columns * np.linalg.solve(columns, white)
    cone = np.array(
        [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
    )
    d50 = np.array([0.9642, 1, 0.8249])
    matrix = np.linalg.inv(cone) @ np.diag((cone @ d50) / (cone @ white)) @ cone @ matrix
    curve = b"curv\0\0\0\0" + struct.pack(">IHH", 1, round(gamma * 256), 0)
    text = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(80)
    parts = {b"desc": text, b"cprt": b"text\0\0\0\0none\0\0\0\0", b"wtpt": xyz(*d50)}
    if space == b"RGB ":
        for name, column in zip((b"r", b"g", b"b"), matrix.T):
            parts |= {name + b"XYZ": xyz(*column), name + b"TRC": curve}
    else:
        parts[b"kTRC"] = curve
    table, data, at = b"", b"", 128 + 4 + 12 * len(parts)
    for name, part in parts.items():
        part += bytes(-len(part) % 4)
        table += struct.pack(">4sII", name, at + len(data), len(part))
        data += part
    head = struct.pack(">I4sI4s4s4s", at + len(data), b"none", 0x02100000, b"mntr", space, b"XYZ ")
    head += struct.pack(">6H4s", 2024, 1, 1, 0, 0, 0, b"acsp") + bytes(28)
    head += struct.pack(">3i", *(round(v * 65536) for v in d50)) + bytes(48)
    return head[:128] + struct.pack(">I", len(parts)) + table + data


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
ADOBE = icc()


def as_adobe(pixels):
    """sRGB 0..255 -> the numbers of Adobe RGB, by the matrices of its specification."""
    linear = np.asarray(pixels) / 255
    linear = np.where(linear <= 0.04045, linear / 12.92, ((linear + 0.055) / 1.055) ** 2.4)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    back = [
        [2.04159, -0.56501, -0.34473],
        [-0.96924, 1.87597, 0.04156],
        [0.01344, -0.11836, 1.01517],
    ]
    mixed = linear @ np.array(to_xyz).T @ np.array(back).T
    return np.uint8(np.rint(255 * np.clip(mixed, 0, 1) ** (1 / 2.2)))


@pytest.mark.parametrize("kind", ["png", "jpg", "tif", "webp"])
def test_colours_are_the_same_whatever_the_profile(tmp_path, kind):
    own = Image.fromarray(as_adobe(picture()))
    more = {"jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}.get(kind, {})
    own.save(tmp_path / f"x.{kind}", icc_profile=ADOBE, **more)
    assert mean_difference(own, picture()) > 8
    # eight bits of a wide space are coarse, a JPEG's are coarser
    most = 2 if kind == "jpg" else 0.5
    assert mean_difference(read_photo(tmp_path / f"x.{kind}"), picture()) < most


def test_our_own_reader_knows_profiles(tmp_path):
    Image.fromarray(as_adobe(picture())).save(tmp_path / "x.png", icc_profile=ADOBE)
    assert mean_difference(read_image(tmp_path / "x.png"), picture()) < 0.5


def test_grey_profile(tmp_path):
    picture("L").save(tmp_path / "x.png", icc_profile=icc(gamma=1.0, space=b"GRAY"))
    linear = np.asarray(picture("L")) / 255
    wanted = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert difference(np.asarray(read_photo(tmp_path / "x.png"))[..., 0], 255 * wanted) <= 2


def test_srgb_changes_no_pixel(tmp_path):
    picture().save(tmp_path / "x.png", icc_profile=SRGB)
    assert difference(read_photo(tmp_path / "x.png"), picture()) == 0
    assert profile_of(SRGB, "RGB") is None


@pytest.mark.parametrize(
    "bad",
    [b"", b"x" * 5000, SRGB[:200], ADOBE[:-40] + os.urandom(40), icc(space=b"GRAY")],
    ids=["none", "text", "cut", "noise", "of grey"],
)
def test_a_damaged_profile_costs_no_pixel(tmp_path, bad):
    picture().save(tmp_path / "x.png", icc_profile=bad)
    found = decode(tmp_path / "x.png")
    assert found.image.size == (SIDE, SIDE)
    if found.profile is None:
        assert difference(found.image, picture()) == 0


def test_back_and_forth_keeps_colours():
    profile = profile_of(ADOBE, "RGB")
    own = Image.fromarray(as_adobe(picture()))
    assert difference(profile.from_srgb(profile.to_srgb(own)), own) <= 2
    with pytest.raises(BadProfile, match="of RGB colours"):
        profile_of(SRGB, "CMYK")


# ---- tags

UPRIGHT = picture().transpose(Image.Transpose.ROTATE_270)  # what orientation 6 shows


def exif_of(**kinds):
    """An EXIF block of orientation 6 and tags as raw entries {number: (type, count, value)}."""
    entries = {0x0112: (3, 1, struct.pack("<HH", 6, 0))} | {
        int(tag[1:]): value for tag, value in kinds.items()
    }
    body, more = b"", b""
    start = 8 + 2 + 12 * len(entries) + 4
    for tag, (kind, count, value) in sorted(entries.items()):
        if len(value) > 4:
            at, more = start + len(more), more + value
            value = struct.pack("<I", at)
        body += struct.pack("<HHI4s", tag, kind, count, value.ljust(4, b"\0"))
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + body + bytes(4) + more


ODD_TAGS = {
    "resolution as text": exif_of(t282=(2, 4, b"abc\0")),
    "artist as a ratio": exif_of(t315=(5, 1, struct.pack("<II", 1, 2))),
    "width as text": exif_of(t256=(2, 6, b"sixty\0")),
    "date as a number": exif_of(t306=(4, 1, struct.pack("<I", 7))),
    "place of exif as text": exif_of(t34665=(2, 4, b"gps\0")),
    "place of gps beyond the end": exif_of(t34853=(4, 1, struct.pack("<I", 1 << 30))),
    "a type that nobody knows": exif_of(t270=(99, 3, b"abc")),
    "a count of everything": exif_of(t270=(2, 2**32 - 1, b"abcd")),
}


@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
@pytest.mark.parametrize("odd", ODD_TAGS)
def test_one_odd_tag_costs_no_pixel(tmp_path, odd, kind):
    more = {"webp": {"lossless": True}}.get(kind, {"quality": 95, "subsampling": 0})
    picture().save(tmp_path / f"x.{kind}", exif=ODD_TAGS[odd], **more)
    found = decode(tmp_path / f"x.{kind}", tags=True)
    assert difference(found.image, UPRIGHT) <= 12


def test_the_good_tags_beside_a_bad_one_stay(tmp_path):
    bad = exif_of(t282=(2, 4, b"abc\0"), t306=(2, 20, b"1999:12:31 23:59:59\0"))
    picture().save(tmp_path / "x.jpg", exif=bad)
    found = decode(tmp_path / "x.jpg", tags=True)
    kept = Image.Exif()
    kept.load(found.exif)
    assert kept[306] == "1999:12:31 23:59:59" and 0x0112 not in kept
    assert "XResolution" in "; ".join(found.notes)


def test_a_phones_tags_damaged_by_chance(tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[271], exif[282], exif[306] = 6, "Maker", 72.0, "2020:01:01 00:00:00"
    exif.get_ifd(0x8769).update({0x829A: 0.01, 0x9003: "2020:01:01 00:00:00", 0x927C: b"x" * 50})
    exif.get_ifd(0x8825).update({1: "N", 2: (1.0, 2.0, 3.0)})
    buffer = io.BytesIO()
    picture().save(buffer, "JPEG", exif=exif)
    data, size = buffer.getvalue(), len(exif.tobytes())
    at, draw = data.index(b"Exif\0\0") + 6, random.Random(0)
    for _ in range(300):
        damaged = bytearray(data)
        for _ in range(draw.randint(1, 3)):
            damaged[at + draw.randrange(size - 6)] = draw.randrange(256)
        (tmp_path / "x.jpg").write_bytes(damaged)
        assert set(decode(tmp_path / "x.jpg", tags=True).image.size) == {SIDE}


def chunk(kind, data, good=True):
    crc = zlib.crc32(kind + data) ^ (0 if good else 1)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"iCCP", b"x\0\0" + zlib.compress(os.urandom(1_200_000), 0)),
        chunk(b"zTXt", b"x\0\0" + zlib.compress(b"A" * 80_000_000)),
        chunk(b"tEXt", b"Comment\0hello", good=False),
        chunk(b"iTXt", b"\xff" * 30, good=False),
    ],
    ids=["profile of 1.2 MB", "text of 80 MB", "text with a wrong sum", "noise"],
)
def test_overlong_and_damaged_chunks_of_a_png(tmp_path, extra):
    buffer = io.BytesIO()
    picture().save(buffer, "PNG")
    data = buffer.getvalue()
    (tmp_path / "x.png").write_bytes(data[:33] + extra + data[33:])
    assert difference(decode(tmp_path / "x.png").image, picture()) == 0


def test_orientation_outlives_what_is_left_out(tmp_path):
    buffer = io.BytesIO()
    picture().save(buffer, "PNG", exif=exif_of())
    data = buffer.getvalue()
    damaged = data[:33] + chunk(b"tEXt", b"a\0b", good=False) + data[33:]
    (tmp_path / "x.png").write_bytes(damaged)
    found = decode(tmp_path / "x.png", tags=True)
    assert difference(found.image, UPRIGHT) == 0 and "left out" in found.notes[-1]


@pytest.mark.parametrize("tag", [282, 34665, 34675, 700])
def test_odd_tags_of_a_tiff(tmp_path, tag):
    picture().save(tmp_path / "x.tif", tiffinfo={270: "text"}, dpi=(72, 72))
    data = bytearray((tmp_path / "x.tif").read_bytes())
    (at,) = struct.unpack("<I", data[4:8])
    (count,) = struct.unpack("<H", data[at : at + 2])
    places = {
        struct.unpack_from("<H", data, at + 2 + 12 * n)[0]: at + 2 + 12 * n for n in range(count)
    }
    place = places[282]
    struct.pack_into("<HHI", data, place, tag, 2, 3)
    (tmp_path / "x.tif").write_bytes(data)
    assert difference(decode(tmp_path / "x.tif", tags=True).image, picture()) == 0


# ---- files


def test_what_is_no_photograph_says_so(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "self.png").symlink_to("self.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "gone.png").symlink_to("nowhere")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "program.jpg").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nloop\n"
    )
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(tmp_path / "socket.png"))
    reasons = {
        "pipe": "not a regular file",
        "socket": "not a regular file",
        "zero": "not a regular file",
        "self": "Too many levels",
        "gone": "broken link",
        "folder": "a folder",
        "empty": "empty file",
        "text": "not an image",
        "program": "not a photograph",
    }
    for path in sorted(tmp_path.iterdir()):
        for read in (decode, read_photo, read_image):
            with pytest.raises(BadImage, match=reasons[path.stem]) as error:
                read(path)
            assert str(error.value) == f"{path}: {error.value.reason}"


def test_a_batch_names_the_face_of_another_size(tmp_path):
    for name, side in (("a", 8), ("b", 8), ("c", 9)):
        write_image(tmp_path / f"{name}.png", np.zeros((side, side, 3), np.uint8))
    with pytest.raises(BadImage, match=r"c\.png: 9x9 pixels, .*a\.png has 8x8"):
        read_images([tmp_path / f"{name}.png" for name in "abc"])


@pytest.mark.parametrize("size", [(9500, 9500), (12000, 9000), (14000, 14000)], ids=str)
def test_large_photographs_are_accepted(tmp_path, size):
    Image.new("1", size, 1).save(tmp_path / "x.png", compress_level=1)
    with Image.open(tmp_path / "x.png") as opened:  # Pillow does not mind either
        assert opened.size == size
    assert large.glance(tmp_path / "x.png", 1600).convert("L").getextrema() == (255, 255)


def test_too_large_says_how_large(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_PIXELS", 1000)
    picture().save(tmp_path / "x.png")
    with pytest.raises(BadImage, match="too large: 48x48 pixels"):
        decode(tmp_path / "x.png")


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "LA", "RGBA"])
def test_a_glance_is_the_photograph_made_smaller(tmp_path, monkeypatch, mode):
    monkeypatch.setattr(large, "LARGE", 1)
    noise = np.random.default_rng(0).integers(0, 255, (250, 410, 3), dtype=np.uint8)
    whole = Image.fromarray(noise).convert(mode)
    if mode in ("LA", "RGBA"):
        whole.putalpha(Image.linear_gradient("L").resize(whole.size))
    whole.save(tmp_path / "x.png", exif=exif_of())
    view = large.glance(tmp_path / "x.png", 100)
    wanted = read_photo(tmp_path / "x.png").reduce(4)
    assert view.size == (250 // 4, 410 // 4)
    # the rest of a block lies on the other side of a turned photograph: rows from the left agree
    shown = np.asarray(wanted)[:, wanted.width - view.width :]
    plain = read_photo(tmp_path / "x.png").transpose(Image.Transpose.ROTATE_90).reduce(4)
    shown = plain.crop((0, 0, 410 // 4, 250 // 4)).transpose(Image.Transpose.ROTATE_270)
    assert difference(view, shown) <= 1


@pytest.mark.parametrize("damage", ["cut", "laced", "deep", "small"])
def test_a_glance_at_what_it_cannot_read_is_none(tmp_path, monkeypatch, damage):
    monkeypatch.setattr(large, "LARGE", 10**6 if damage == "small" else 1)
    path = tmp_path / "x.png"
    if damage == "deep":
        Image.fromarray(np.uint16(np.tile(GREY, (5, 5)) * 257)).save(path)
    else:
        Image.new("RGB", (300, 300), (9, 8, 7)).save(path)
    data = bytearray(path.read_bytes())
    if damage == "laced":
        data[28] = 1
    path.write_bytes(data[:-30] if damage == "cut" else data)
    assert large.glance(path, 50) is None
