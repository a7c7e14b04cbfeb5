"""frcore.restore with a toy method; photographs as people have them."""

import csv
import os
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from test_decode import ADOBE, as_adobe, mean_difference

from frcore.config import Strict
from frcore.faces.detect import Face
from frcore.io import checkpoint, photo_files
from frcore.io.images import BadImage, to_float, write_image
from frcore.registry import METHODS, MethodRow
from frcore.restore import aligned, models, photos
from frcore.restore.photos import PhotoOptions
from frcore.seeds import torch_generator

SIDE = 96


class Settings(Strict):
    size: int = 32
    parser: str | None = None


@pytest.fixture
def toy(monkeypatch):
    """An identity method, untrained as `toy`, trained as `toy_net`; `module.change` alters it."""
    module = types.ModuleType("toy_method")
    module.Settings, module.change = Settings, lambda image, faces: image
    module.build = lambda settings: torch.nn.Linear(2, settings.size)

    def run(model, faces, guide):
        module.batches.append(len(faces))
        return module.change(faces.images, faces)

    module.restore, module.batches = run, []
    monkeypatch.setitem(sys.modules, "toy_method", module)
    monkeypatch.setitem(METHODS, "toy", MethodRow("toy_method", "Toy"))
    row = MethodRow("toy_method", helpers=("parser",), exports=frozenset({"make_trainer"}))
    monkeypatch.setitem(METHODS, "toy_net", row)
    return module


@pytest.fixture
def restorer(toy):
    return models.without_weights("toy", "toy", {"size": 64}, size=64)


def faces_of(folder: Path, n: int) -> list[str]:
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (n, 16, 16, 3), dtype=np.uint8)
    for i in range(n):
        write_image(folder / f"{i}.png", pixels[i])
    return [str(i) for i in range(n)]


def rows_of(path: Path) -> list[dict]:
    with path.open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


# ---- models


def save_toy(path: Path, **card) -> Path:
    state = torch.nn.Linear(2, 32).state_dict()
    whole = {"method": "toy_net", "settings": {"size": 32}, "helpers": {}, "size": 32, **card}
    checkpoint.save_weights(path, {"model": state}, whole)
    return path


def test_model_is_found_by_name_and_brings_its_helpers(toy, tmp_path):
    save_toy(tmp_path / "weights" / "small.safetensors", helpers={"parser": "fpn"}, name="small")
    with pytest.raises(models.RestoreError, match=r"small needs the helper parser.*'fpn'"):
        models.load_model("small", root=tmp_path, results=tmp_path)
    helper = save_toy(tmp_path / "models" / "fpn" / "weights.safetensors")
    loaded = models.load_model("small", root=tmp_path, results=tmp_path)
    assert loaded.size == 32 and loaded.name == "small"
    assert isinstance(loaded.guide["parser"], torch.nn.Linear)
    assert not any(item.requires_grad for item in loaded.model.parameters())
    save_toy(helper, seed=1)  # other helper weights: other results
    assert models.load_model("small", root=tmp_path, results=tmp_path).digest != loaded.digest
    with pytest.raises(models.RestoreError, match="did you mean 'small'"):
        models.load_model("smal", root=tmp_path, results=tmp_path)
    with pytest.raises(models.RestoreError, match="no weights file"):
        models.load_model(tmp_path / "none.safetensors")


def test_weights_must_fit(toy, tmp_path):
    path = tmp_path / "wide.safetensors"
    state = torch.nn.Linear(2, 8).state_dict()
    checkpoint.save_weights(path, {"model": state}, {"method": "toy_net", "settings": {}})
    with pytest.raises(checkpoint.WeightsError, match="does not fit"):
        models.load_model(path)


@pytest.mark.parametrize(
    ("card", "networks", "words"),
    [
        ({"method": "nope"}, None, "unknown method 'nope'"),
        ({"method": "../x"}, None, "unknown method"),
        ({"settings": {"size": -5}}, None, "no network can be made of it"),
        ({"settings": {"depth": 3}}, None, "depth: unknown key"),
        ({}, {}, "no network called model"),
        ({}, {"other": {"a": torch.zeros(1)}}, "no network called model"),
        ({}, {"model": {"a": torch.zeros(1)}}, "does not fit"),
    ],
)
def test_odd_weights_are_one_line(toy, tmp_path, card, networks, words):
    path = tmp_path / "odd.safetensors"
    state = {"model": torch.nn.Linear(2, 32).state_dict()} if networks is None else networks
    whole = {"method": "toy_net", "settings": {"size": 32}, **card}
    checkpoint.save_weights(path, state, whole)
    with pytest.raises(ValueError, match=re.escape(words)) as error:
        models.load_model(path, root=tmp_path, results=tmp_path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("damage", ["no network", "odd settings", "values"])
def test_odd_weights_of_a_helper_are_one_line(toy, tmp_path, damage):
    save_toy(tmp_path / "weights" / "small.safetensors", helpers={"parser": "fpn"}, name="small")
    state = torch.nn.Linear(2, 32).state_dict()
    if damage == "values":
        state["bias"][0] = torch.nan
    networks = {"other" if damage == "no network" else "model": state}
    settings = {"size": -5 if damage == "odd settings" else 32}
    path = tmp_path / "weights" / "fpn.safetensors"
    checkpoint.save_weights(path, networks, {"method": "toy_net", "settings": settings})
    with pytest.raises(checkpoint.WeightsError) as error:
        models.load_model("small", root=tmp_path, results=tmp_path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_bicubic_needs_no_weights(tmp_path):
    model = models.load_model("bicubic", root=tmp_path, results=tmp_path)
    images = torch.rand(3, 3, 16, 16)
    assert torch.equal(aligned.restore_faces(model, images, ["a", "b", "c"]), images)


# ---- aligned faces


def test_a_face_does_not_depend_on_its_batch(toy, restorer):
    toy.change = lambda image, faces: image + faces.rand(*image.shape[1:])
    images, ids = torch.zeros(5, 3, 8, 8), list("abcde")
    together = aligned.restore_faces(restorer, images, ids, seed=1, batch=4)
    alone = aligned.restore_faces(restorer, images[2:3], ids[2:3], seed=1)
    assert torch.equal(together[2:3], alone)
    assert not torch.equal(together[1], together[2])
    assert not torch.equal(aligned.restore_faces(restorer, images, ids, seed=2)[2:3], alone)


def test_draws_follow_from_names_alone(toy, restorer):
    toy.change = lambda image, faces: image + faces.rand(1, 1, 1)
    for sample, more in ((0, ()), (2, (2,))):
        (face,) = aligned.try_faces(restorer, torch.zeros(1, 3, 8, 8), ["a"], 5, sample=sample)
        wanted = torch.rand(1, generator=torch_generator(5, "toy", "restore", "a", *more))
        assert (face == wanted).all()


def test_faces_are_batched(toy, restorer):
    aligned.restore_faces(restorer, torch.zeros(5, 3, 8, 8), list("abcde"), batch=2)
    assert toy.batches == [2, 2, 1]


def test_folder_lists_failures_without_an_image(toy, restorer, tmp_path):
    ids = faces_of(tmp_path / "in", 5)
    (tmp_path / "in" / "3.png").write_bytes(b"")

    def change(image, faces):
        means = image.mean((1, 2, 3))
        if (means == bad).any():
            raise RuntimeError("out of memory")
        return torch.where((means == nan)[:, None, None, None], torch.nan, image)

    faces = [to_float(np.asarray(Image.open(tmp_path / "in" / f"{i}.png"))) for i in (1, 2)]
    bad, nan = (face.mean((1, 2, 3))[0] for face in faces)
    toy.change = change
    out, table = tmp_path / "out", tmp_path / "out.csv"
    counts = aligned.restore_folder([*ids, "gone"], tmp_path / "in", out, table, restorer, batch=4)
    rows = {row["id"]: (row["status"], row["reason"]) for row in rows_of(table)}
    assert rows["0"] == rows["4"] == ("restored", "")
    assert rows["1"] == ("failed", "RuntimeError: out of memory")
    assert rows["2"] == ("failed", "the model's output is not finite")
    assert rows["3"] == ("failed", "empty file")
    assert rows["gone"][0] == "failed" and "No such file" in rows["gone"][1]
    assert sorted(path.name for path in out.iterdir()) == ["0.png", "4.png"]
    assert counts == {"restored": 2, "failed": 4}
    assert (out / "0.png").read_bytes() == (tmp_path / "in" / "0.png").read_bytes()


def test_folder_appears_whole_or_not_at_all(toy, restorer, tmp_path, monkeypatch):
    ids = faces_of(tmp_path / "in", 2)
    monkeypatch.setattr(aligned, "write_image", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        aligned.restore_folder(ids, tmp_path / "in", tmp_path / "o", tmp_path / "t.csv", restorer)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_wrong_shape_is_a_failure(toy, restorer):
    toy.change = lambda image, faces: image[..., :4]
    with pytest.raises(models.RestoreError, match=r"result is \(1, 3, 8, 4\)"):
        aligned.restore_faces(restorer, torch.zeros(1, 3, 8, 8), ["a"])


# ---- photographs


def face_at(x: float, y: float, side: float) -> Face:
    """A face whose crop is about 2 x `side` wide."""
    landmarks = np.tile([x, y], (68, 1)).astype(float)
    landmarks[36:42] += (-side / 4, -side / 8)
    landmarks[42:48] += (side / 4, -side / 8)
    landmarks[[48, 54]] += [(-side / 8, side / 3), (side / 8, side / 3)]
    return Face((x - side / 2, y - side / 2, x + side / 2, y + side / 2), 1.0, landmarks)


@pytest.fixture
def found(monkeypatch):
    """Stands for the detector: the faces that photographs of at least 64 px have."""
    faces = [face_at(48, 50, 36)]
    monkeypatch.setattr(
        photos.detect, "find_faces", lambda image, *_: faces if image.width >= 64 else []
    )
    monkeypatch.setattr(photos, "_detector", lambda *_: None)
    return faces


def picture(mode: str = "RGB") -> Image.Image:
    """Smooth and different in every corner, so that turns and swapped channels show."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    pixels = np.stack([x, y, 0.5 + 0.4 * np.sin(4 * x) * y], axis=-1)
    return Image.fromarray(np.uint8(255 * pixels)).convert(mode)


def run(tmp_path, restorer, folder="in", **options):
    counts = photos.restore_photos(
        tmp_path / folder,
        tmp_path / "out",
        restorer,
        PhotoOptions(**options),
        tmp_path / "no-assets",
        progress=False,
    )
    return counts, rows_of(tmp_path / "out" / "restored.csv")


def difference(a: Image.Image, b: Image.Image) -> int:
    return int(np.abs(np.asarray(a, dtype=int) - np.asarray(b, dtype=int)).max())


def test_torture_folder(toy, restorer, found, tmp_path):
    folder = tmp_path / "in" / "Été 🌊 дед"
    folder.mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112], exif[306] = 6, "1999:12:31 23:59:59"
    exif.get_ifd(0x8825)[1] = "N"
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    turned = picture().transpose(Image.Transpose.ROTATE_90)  # a viewer turns it back
    turned.save(folder / "Фото 1.jpg", exif=exif, icc_profile=icc, quality=95, subsampling=0)
    alpha = Image.linear_gradient("L").resize((SIDE, SIDE))
    clear = picture()
    clear.putalpha(alpha)
    clear.save(folder / "alpha.png")
    picture("L").save(folder / "grey.png")
    picture("L").convert("RGB").save(folder / "grey3.webp", lossless=True)
    Image.fromarray(np.asarray(picture("L")).astype(np.uint16) * 257).save(folder / "deep.tif")
    picture("CMYK").save(folder / "print.jpg", quality=95)
    picture("P").save(folder / "old.gif")
    (folder / "cut.jpg").write_bytes((folder / "print.jpg").read_bytes()[:600])
    (folder / "empty.png").touch()
    (folder / "text.png").write_text("no picture")
    picture().resize((32, 32)).save(folder / "nobody.png")

    counts, rows = run(tmp_path, restorer)
    status = {Path(row["photo"]).name: row for row in rows}
    assert len(rows) == counts["photos"] == 11
    good = {name for name, row in status.items() if row["status"] == "restored"}
    kinds = {
        "Фото 1.jpg",
        "alpha.png",
        "grey.png",
        "grey3.webp",
        "deep.tif",
        "print.jpg",
        "old.gif",
    }
    assert good == kinds and counts["restored"] == 7 and counts["unrestored"] == 4
    assert status["cut.jpg"]["status"] == "failed" and "truncated" in status["cut.jpg"]["reason"]
    assert status["empty.png"]["reason"] == "empty file"
    assert status["text.png"]["status"] == "failed"
    assert status["nobody.png"]["reason"] == "no face found"
    out = tmp_path / "out" / folder.name
    written = {path.name for path in out.iterdir()}
    assert written == (kinds - {"old.gif"}) | {"old.gif.png"}  # never a photograph without a face
    assert len(list((tmp_path / "out" / "faces").iterdir())) == 14

    with Image.open(out / "Фото 1.jpg") as photo:
        tags = photo.getexif()
        assert tags.get(0x0112, 1) == 1 and tags[306] == "1999:12:31 23:59:59"
        assert tags.get_ifd(0x8825)[1] == "N" and photo.info["icc_profile"] == icc
        assert difference(photo, picture()) <= 12  # two JPEGs
    with Image.open(out / "alpha.png") as photo:
        assert photo.mode == "RGBA" and difference(photo.getchannel("A"), alpha) == 0
        assert difference(photo.convert("RGB"), picture()) <= 3
    with Image.open(out / "grey.png") as photo:
        assert photo.mode == "L" and difference(photo, picture("L")) <= 3
    with Image.open(out / "grey3.webp") as photo:
        pixels = np.asarray(photo.convert("RGB"))
        assert (pixels == pixels[..., :1]).all()
    with Image.open(out / "deep.tif") as photo:
        assert photo.mode == "L" and difference(photo, picture("L")) <= 3
    assert "8-bit" in status["deep.tif"]["note"] and "CMYK" in status["print.jpg"]["note"]


def test_a_tint_does_not_reach_grey_photographs(toy, restorer, found, tmp_path):
    (tmp_path / "in").mkdir()
    picture("L").convert("RGB").save(tmp_path / "in" / "grey3.png")
    picture().save(tmp_path / "in" / "colour.png")
    tint = torch.tensor([1.0, 0.0, 0.0])[:, None, None]
    toy.change = lambda image, faces: image * 0 + tint
    run(tmp_path, restorer)
    pixels = np.asarray(Image.open(tmp_path / "out" / "grey3.png"))
    assert (pixels == pixels[..., :1]).all()
    centre = np.asarray(Image.open(tmp_path / "out" / "colour.png"))[50, 48]
    assert centre.tolist() == [255, 0, 0]  # and the face was pasted


def test_strip_metadata(toy, restorer, found, tmp_path):
    (tmp_path / "in").mkdir()
    exif = Image.Exif()
    exif.get_ifd(0x8825)[1] = "N"
    picture().save(tmp_path / "in" / "a.jpg", exif=exif)
    run(tmp_path, restorer, strip_metadata=True)
    with Image.open(tmp_path / "out" / "a.jpg") as photo:
        assert not len(photo.getexif())


def test_rerun_keeps_what_is_done(toy, restorer, found, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png"):
        picture().save(tmp_path / "in" / name)
    (tmp_path / "in" / "bad.png").touch()
    _, before = run(tmp_path, restorer)
    stamp = (tmp_path / "out" / "a.png").stat().st_mtime_ns
    (tmp_path / "out" / "b.png").unlink()
    counts, after = run(tmp_path, restorer)
    assert counts["kept"] == 1 and after == before
    assert (tmp_path / "out" / "a.png").stat().st_mtime_ns == stamp
    counts, _ = run(tmp_path, restorer, strength=0.5)  # another setting: done again
    assert counts["kept"] == 0 and (tmp_path / "out" / "a.png").stat().st_mtime_ns != stamp
    picture().rotate(90).save(tmp_path / "in" / "a.png")  # another photograph of that name
    assert run(tmp_path, restorer, strength=0.5)[0]["kept"] == 1


def test_foreign_files_are_not_overwritten(toy, restorer, found, tmp_path):
    for folder in ("in", "out"):
        (tmp_path / folder).mkdir()
        picture().save(tmp_path / folder / "a.png")
    mine = (tmp_path / "out" / "a.png").read_bytes()
    counts, rows = run(tmp_path, restorer)
    assert counts["failed"] == 1 and "--overwrite" in rows[0]["reason"]
    assert (tmp_path / "out" / "a.png").read_bytes() == mine
    with pytest.raises(ValueError, match="lies in"):
        run(tmp_path, restorer, folder=".")


def test_faces_are_chosen_from_left_to_right(toy, restorer, found, tmp_path):
    (tmp_path / "in").mkdir()
    picture().save(tmp_path / "in" / "a.png")
    found[:] = [face_at(20, 50, 20), face_at(48, 50, 30), face_at(80, 50, 16)]

    def statuses(**options):
        _, rows = run(tmp_path, restorer, **options)
        return [row["status"][0] + row["reason"][:11] for row in rows]

    assert statuses() == ["r", "r", "r"]
    assert statuses(faces="largest") == ["snot chosen", "r", "snot chosen"]
    assert statuses(faces="0,2") == ["r", "snot chosen", "r"]
    assert statuses(min_face=18) == ["r", "r", "ssmaller tha"]
    counts, _ = run(tmp_path, restorer, faces="7")
    assert counts["unrestored"] == 1
    with pytest.raises(ValueError, match="numbers like 0,2"):
        PhotoOptions(faces="left")


def test_one_failed_face_of_three(toy, restorer, found, tmp_path):
    (tmp_path / "in").mkdir()
    picture().save(tmp_path / "in" / "a.png")
    found[:] = [face_at(20, 50, 20), face_at(48, 50, 20), face_at(76, 50, 20)]
    order = []

    def change(image, faces):
        if len(image) > 1:
            raise RuntimeError("no batches")
        order.append(0)
        return image * torch.nan if len(order) == 2 else image

    toy.change = change
    counts, rows = run(tmp_path, restorer)
    assert [row["status"] for row in rows] == ["restored", "failed", "restored"]
    assert counts["failed"] == 1 and counts["restored"] == 1
    assert len(list((tmp_path / "out" / "faces").iterdir())) == 4
    counts, rows = run(tmp_path, restorer)  # a failure is tried again
    assert [row["status"] for row in rows] == ["restored"] * 3 and counts["kept"] == 0
    assert run(tmp_path, restorer)[0]["kept"] == 1


def test_photograph_that_was_cut_off_is_written_again(toy, restorer, found, tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    picture().save(tmp_path / "in" / "a.png")
    write = photos.write_photo

    def killed(*arguments):
        write(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(photos, "write_photo", killed)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, restorer)
    assert (tmp_path / "out" / "a.png").is_file()
    monkeypatch.setattr(photos, "write_photo", write)
    counts, rows = run(tmp_path, restorer)
    assert counts["kept"] == 0 and [row["status"] for row in rows] == ["restored"]


def test_a_model_coarser_than_the_photograph_is_noted(toy, found, tmp_path):
    (tmp_path / "in").mkdir()
    picture().save(tmp_path / "in" / "a.png")
    coarse = models.without_weights("toy", "toy", {"size": 16}, size=16)
    _, rows = run(tmp_path, coarse)
    assert "the model has 16" in rows[0]["note"]
    fine = models.without_weights("toy", "toy", {"size": 64}, size=64)
    _, rows = run(tmp_path, fine)
    assert rows[0]["note"] == ""


def test_scale_and_strength(toy, restorer, found, tmp_path):
    (tmp_path / "in").mkdir()
    picture().save(tmp_path / "in" / "a.png")
    toy.change = lambda image, faces: image * 0
    run(tmp_path, restorer, scale=2)
    photo = Image.open(tmp_path / "out" / "a.png")
    assert photo.size == (2 * SIDE, 2 * SIDE) and photo.getpixel((97, 101)) == (0, 0, 0)
    run(tmp_path, restorer, strength=0.0)
    assert difference(Image.open(tmp_path / "out" / "a.png"), picture()) <= 3
    with pytest.raises(ValueError, match="strength must be in"):
        PhotoOptions(strength=2)
    with pytest.raises(ValueError, match="scale must be"):
        PhotoOptions(scale=3)


def test_aligned_faces_need_no_detector(toy, restorer, tmp_path):
    (tmp_path / "in").mkdir()
    picture().resize((64, 64)).save(tmp_path / "in" / "a.png")
    picture().crop((0, 0, 90, 60)).save(tmp_path / "in" / "wide.png")
    _, rows = run(tmp_path, restorer, aligned=True)
    assert [row["status"] for row in rows] == ["restored", "failed"]
    assert difference(Image.open(tmp_path / "out" / "a.png"), picture().resize((64, 64))) == 0


def test_identity_of_a_real_face(toy, restorer, resources, tmp_path):
    root = resources("dlib_68", "dlib_resnet", "orl")
    restorer.card.update(crop_scale=0.7)
    photo = root / "orl" / "faces" / "s1" / "1.pgm"
    toy.change = lambda image, faces: image * 0.95
    counts = photos.restore_photos(
        photo, tmp_path / "out", restorer, PhotoOptions(enlarge=4), root, progress=False
    )
    (row,) = rows_of(tmp_path / "out" / "restored.csv")
    assert counts["restored"] == 1 and float(row["id_distance"]) < 0.3 and not row["note"]
    with Image.open(photo) as before, Image.open(tmp_path / "out" / "1.pgm.png") as after:
        assert after.mode == "L" and after.size == before.size
        change = np.abs(np.asarray(before, float) - np.asarray(after, float))
        assert 1 < change.mean() < 10  # 5 % darker in the face, untouched outside
        assert (change[:, 0] == 0).all()


def test_broken_photographs_say_why(tmp_path):
    (tmp_path / "a.png").write_text("text")
    with pytest.raises(BadImage, match="not an image"):
        photo_files.open_photo(tmp_path / "a.png")


# ---- several restorations of a face


@pytest.fixture
def rdfr(tmp_path):
    """`rdfr(**settings)` -> a tiny RDFR with random weights, loaded from a file."""
    from frcore.methods import rdfr as method

    def make(**changes):
        torch.manual_seed(0)
        settings = method.Settings(**{**method.TINY, **changes})
        path = tmp_path / "weights" / "tiny.safetensors"
        card = {"method": "rdfr", "settings": settings.model_dump(), "name": "tiny"}
        checkpoint.save_weights(path, {"model": method.build(settings).state_dict()}, card)
        return models.load_model(path)

    return make


def aligned_faces(folder: Path, names: str) -> None:
    folder.mkdir(exist_ok=True)
    for i, name in enumerate(names):
        picture().rotate(90 * i).resize((32, 32)).save(folder / f"{name}.png")


def crop_of(name: str, what: str) -> str:
    """Place of an aligned face of photograph `name`."""
    return f"faces/{photos.sources.photo_id(Path(name))}_0_{what}.png"


def sampled(tmp_path, restorer, out="out", **options):
    """Counts, rows and {name: pixels} of all pictures of a run on the folder `in`."""
    options = PhotoOptions(aligned=True, **options)
    words = (tmp_path / "in", tmp_path / out, restorer, options, tmp_path / "no-assets")
    counts = photos.restore_photos(*words, progress=False)
    pictures = {
        path.relative_to(tmp_path / out).as_posix(): np.asarray(Image.open(path)).astype(int)
        for path in sorted((tmp_path / out).rglob("*.png"))
    }
    return counts, rows_of(tmp_path / out / "restored.csv"), pictures


def test_samples_differ_and_the_first_is_the_usual_one(rdfr, tmp_path):
    restorer = rdfr()
    aligned_faces(tmp_path / "in", "ab")
    counts, rows, found = sampled(tmp_path, restorer, samples=3)
    names = {f"{name}_{k}.png" for name in "ab" for k in range(3)}
    crops = {"before", "after_0", "after_1", "after_2", "std"}
    assert set(found) == names | {crop_of(f"{name}.png", crop) for name in "ab" for crop in crops}
    assert counts["restored"] == counts["faces"] == 2
    _, usual_rows, usual = sampled(tmp_path, restorer, "usual")
    assert tuple(usual_rows[0]) == photos.PHOTO_COLUMNS
    for name, row in zip("ab", rows):
        assert tuple(row) == photos.PHOTO_COLUMNS + photos.SAMPLE_COLUMNS
        assert row["output"] == f"{name}_0.png" and row["samples"] == "3"
        samples = np.stack([found[f"{name}_{k}.png"] for k in range(3)])
        assert (samples[0] == usual[f"{name}.png"]).all()
        assert all((samples[i] != samples[j]).any() for i, j in ((0, 1), (0, 2), (1, 2)))
        # the table and the picture follow from the samples
        squares = [((samples[i] - samples[j]) ** 2).mean() for i, j in ((0, 1), (0, 2), (1, 2))]
        assert float(row["sample_rms_255"]) == pytest.approx(np.sqrt(squares).mean(), abs=1e-4)
        deviation = np.sqrt(samples.var(0, ddof=1).mean(-1))
        white = float(row["sample_std_max_255"])
        assert white == pytest.approx(deviation.max(), abs=1e-4) and white > 1
        shown = found[crop_of(f"{name}.png", "std")]
        assert shown.max() == 255
        np.testing.assert_allclose(shown / 255 * white, deviation, atol=white / 255)


def test_samples_depend_on_seed_name_and_number_alone(rdfr, tmp_path):
    restorer = rdfr()
    aligned_faces(tmp_path / "in", "abc")
    _, _, found = sampled(tmp_path, restorer, samples=3)
    _, _, fewer = sampled(tmp_path, restorer, "fewer", samples=2)
    _, _, other = sampled(tmp_path, restorer, "other", samples=3, seed=1)
    for name in "ac":
        (tmp_path / "in" / f"{name}.png").unlink()
    _, _, alone = sampled(tmp_path, restorer, "alone", samples=3)
    (tmp_path / "in" / "b.png").rename(tmp_path / "in" / "z.png")
    _, _, renamed = sampled(tmp_path, restorer, "renamed", samples=3)
    for k in range(3):
        assert (alone[f"b_{k}.png"] == found[f"b_{k}.png"]).all()
        assert (other[f"b_{k}.png"] != found[f"b_{k}.png"]).any()
        assert (renamed[f"z_{k}.png"] != found[f"b_{k}.png"]).any()
    assert (fewer["b_1.png"] == found["b_1.png"]).all()


def test_spread_of_samples_by_hand():
    shades = [np.full((2, 2, 3), value, np.uint8) for value in (10, 20, 40)]
    assert aligned.sample_distance(shades[:2]) == pytest.approx(10)
    assert aligned.sample_distance(shades) == pytest.approx((10 + 30 + 20) / 3)
    assert aligned.sample_deviation(shades[:2]) == pytest.approx(10 / np.sqrt(2))
    one_channel = [np.zeros((1, 1, 3), np.uint8), np.array([[[6, 0, 0]]], np.uint8)]
    assert aligned.sample_distance(one_channel) == pytest.approx(np.sqrt(36 / 3))
    assert aligned.sample_deviation(one_channel) == pytest.approx(np.sqrt(18 / 3))


def test_models_that_draw_nothing_have_no_samples(rdfr, tmp_path):
    aligned_faces(tmp_path / "in", "a")
    for model in (
        models.load_model("bicubic", root=tmp_path, results=tmp_path),
        rdfr(stochastic=False),
    ):
        with pytest.raises(models.RestoreError, match="draws nothing") as caught:
            sampled(tmp_path, model, samples=2)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()
        assert sampled(tmp_path, model, model.name, samples=1)[0]["restored"] == 1
    with pytest.raises(ValueError, match="samples must be at least 1"):
        PhotoOptions(samples=0)


@pytest.fixture
def drawing(toy, restorer, monkeypatch):
    """The toy method, drawing a shade: a restorer with samples."""
    row = MethodRow("toy_method", "Toy", stochastic=True)
    monkeypatch.setitem(METHODS, "toy", row)
    toy.change = lambda image, faces: image * 0 + faces.rand(1, 1, 1)
    return restorer


def test_samples_of_photographs_are_pasted(toy, drawing, found, tmp_path):
    (tmp_path / "in").mkdir()
    picture().save(tmp_path / "in" / "a.jpg", quality=95)
    found[:] = [face_at(30, 50, 30), face_at(66, 50, 30)]
    _, rows = run(tmp_path, drawing, samples=4)
    assert [row["output"] for row in rows] == ["a_0.jpg"] * 2
    shades = {0: set(), 1: set()}
    for k in range(4):
        with Image.open(tmp_path / "out" / f"a_{k}.jpg") as photo:
            for face, x in enumerate((30, 66)):
                shades[face].add(photo.getpixel((x, 52)))
    assert len(shades[0]) == len(shades[1]) == 4 and not shades[0] & shades[1]
    std = np.asarray(Image.open(tmp_path / "out" / crop_of("a.jpg", "std")))
    assert std.shape == (64, 64) and (std == 255).all()  # a flat shade varies alike everywhere


def test_a_failed_sample_fails_its_face(toy, drawing, found, tmp_path):
    (tmp_path / "in").mkdir()
    picture().save(tmp_path / "in" / "a.png")
    calls = []

    def change(image, faces):
        calls.append(faces.rand(1))
        return image * torch.nan if len(calls) == 2 else image

    toy.change = change
    counts, rows = run(tmp_path, drawing, samples=3)
    assert counts["failed"] == 1 and "not finite" in rows[0]["reason"] and not rows[0]["output"]
    assert [path.name for path in (tmp_path / "out").glob("*.png")] == []
    assert run(tmp_path, drawing, samples=3)[0]["restored"] == 1  # tried again


def test_samples_are_kept_and_foreign_files_left_alone(toy, drawing, found, tmp_path):
    (tmp_path / "in").mkdir()
    picture().save(tmp_path / "in" / "a.png")
    assert run(tmp_path, drawing)[0]["restored"] == 1  # one: a.png
    _, before = run(tmp_path, drawing, samples=2)
    counts, after = run(tmp_path, drawing, samples=2)
    assert counts["kept"] == 1 and after == before
    (tmp_path / "out" / "a_1.png").unlink()
    assert run(tmp_path, drawing, samples=2)[0]["kept"] == 0
    picture().save(tmp_path / "out" / "a_2.png")  # not ours
    mine = (tmp_path / "out" / "a_2.png").read_bytes()
    counts, rows = run(tmp_path, drawing, samples=3)
    assert counts["failed"] == 1 and "--overwrite" in rows[0]["reason"]
    assert (tmp_path / "out" / "a_2.png").read_bytes() == mine


def test_identity_is_the_mean_over_samples(toy, drawing, found, tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    picture().save(tmp_path / "in" / "a.png")

    class Shade:  # a face's identity is its mean shade, times four
        def descriptors(self, images, *crop):
            return 4 * images.mean((1, 2, 3))[:, None]

    monkeypatch.setattr(photos, "_recogniser", lambda *_: Shade())
    _, (row,) = run(tmp_path, drawing, samples=5)
    crops = [f"after_{k}" for k in range(5)]
    before, *after = (
        4 * np.asarray(Image.open(tmp_path / "out" / crop_of("a.png", crop))).mean() / 255
        for crop in ("before", *crops)
    )
    distances = [abs(before - shade) for shade in after]
    others = sum(distance > 0.6 for distance in distances)
    assert float(row["id_distance"]) == pytest.approx(np.mean(distances), abs=1e-3)
    assert 0 < others < 5 and f"{others} of 5 samples may look like another person" in row["note"]


# ---- what cannot be written as it came, and two of one name


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
        return image


def save_webp(path, **more):
    picture().save(path, "WEBP", lossless=True, **more)


HELD = {  # file -> (how it is made, where it is written, word of the note)
    "alpha.jpg": (lambda p: clear().save(p, "PNG"), "alpha.jpg.png", "no transparency"),
    "alpha.jfif": (lambda p: clear("LA").save(p, "PNG"), "alpha.jfif.png", "no transparency"),
    "palette.jpeg": (
        lambda p: picture("P").save(p, "PNG", transparency=3),
        "palette.jpeg.png",
        "no transparency",
    ),
    "alpha.bmp": (lambda p: clear().save(p, "PNG"), "alpha.bmp.png", "neither"),
    "dated.bmp": (lambda p: picture().save(p, "JPEG", exif=dated()), "dated.bmp.png", "neither"),
    "old.gif": (lambda p: picture("P").save(p), "old.gif.png", ".gif: written as PNG"),
    "new.avif": (lambda p: picture().save(p), "new.avif.png", ".avif: written as PNG"),
    "jp2.jp2": (lambda p: picture().save(p), "jp2.jp2.png", ".jp2: written as PNG"),
    "exif.jpg": (lambda p: save_webp(p, exif=dated(80_000)), "exif.jpg", "EXIF left out"),
    "xmp.jpg": (
        lambda p: save_webp(p, xmp=b"<x>" + b"a" * 70_000 + b"</x>"),
        "xmp.jpg",
        "XMP left out",
    ),
    "both.jpg": (
        lambda p: save_webp(p, exif=dated(80_000), xmp=b"<x>" + b"a" * 70_000 + b"</x>"),
        "both.jpg",
        "XMP and EXIF left out",
    ),
    "fine.tif": (lambda p: clear().save(p), "fine.tif", ""),
    "fine.webp": (lambda p: clear().save(p, lossless=True), "fine.webp", ""),
    "print.png": (lambda p: picture("CMYK").save(p, "TIFF"), "print.png", "CMYK"),
}


def clear(mode="RGBA"):
    image = picture().convert(mode)
    image.putalpha(Image.linear_gradient("L").resize((SIDE, SIDE)))
    return image


def dated(size: int = 0):
    exif = Image.Exif()
    exif[306] = "1999:12:31 23:59:59"
    if size:
        exif.get_ifd(0x8769)[0x927C] = b"x" * size
    return exif


@pytest.mark.parametrize("name", HELD)
def test_a_format_that_cannot_hold_a_photograph_is_png(toy, restorer, found, tmp_path, name):
    (tmp_path / "in").mkdir()
    make, output, note = HELD[name]
    make(tmp_path / "in" / name)
    _, [row] = run(tmp_path, restorer)
    assert (row["status"], row["output"]) == ("restored", output)
    assert note in row["note"] and bool(note) == bool(row["note"])
    shown = opened(tmp_path / "out" / output)
    if "alpha" in name or "fine" in name:
        assert difference(shown.getchannel("A"), clear().getchannel("A")) == 0
    if name == "dated.bmp":
        assert shown.getexif()[306] == "1999:12:31 23:59:59"
    assert run(tmp_path, restorer)[0]["kept"] == 1


def test_sides_that_a_format_cannot_have(toy, restorer, found, tmp_path):
    (tmp_path / "in").mkdir()
    Image.new("RGB", (4200, 64), (90, 120, 60)).save(tmp_path / "in" / "a.webp", lossless=True)
    _, [row] = run(tmp_path, restorer, scale=4)
    assert row["output"] == "a.webp.png" and "WEBP cannot hold it" in row["note"]
    assert opened(tmp_path / "out" / "a.webp.png").size == (16800, 256)


def test_samples_that_cannot_be_held(toy, drawing, found, tmp_path):
    (tmp_path / "in").mkdir()
    clear().save(tmp_path / "in" / "a.jpg", "PNG")
    _, [row] = run(tmp_path, drawing, samples=2)
    assert row["output"] == "a_0.jpg.png"
    assert {path.name for path in (tmp_path / "out").glob("a*")} == {"a_0.jpg.png", "a_1.jpg.png"}
    assert run(tmp_path, drawing, samples=2)[0]["kept"] == 1


@pytest.mark.parametrize("name", ["a" * 251 + ".png", "b" * 251 + ".gif", "é" * 125 + ".jpg"])
def test_long_names(toy, restorer, found, tmp_path, name):
    (tmp_path / "in").mkdir()
    picture().save(tmp_path / "in" / name)
    _, [row] = run(tmp_path, restorer)
    assert row["status"] == "restored" and (tmp_path / "out" / row["output"]).is_file()
    assert run(tmp_path, restorer)[0]["kept"] == 1


def test_xmp_and_dates_survive(toy, restorer, found, tmp_path):
    (tmp_path / "in").mkdir()
    told = b'<x tiff:Orientation="6">place</x>'
    for name in ("a.jpg", "a.webp", "b.png", "c.tif"):
        if name == "c.tif":
            picture().save(tmp_path / "in" / name, tiffinfo={700: told, 306: "1999:12:31 23:59:59"})
        else:
            picture().save(tmp_path / "in" / name, exif=dated(), xmp=told)
    (tmp_path / "in" / "b.png").unlink()
    run(tmp_path, restorer)
    for name in ("a.jpg", "a.webp", "c.tif"):
        shown = opened(tmp_path / "out" / name)
        assert b"place" in shown.info["xmp"] and b"Orientation" not in shown.info["xmp"]
        assert shown.getexif()[306] == "1999:12:31 23:59:59"


@pytest.mark.parametrize(
    ("names", "refused"),
    [
        (["x.gif", "x.gif.png"], {"x.gif", "x.gif.png"}),
        (["sub/x.gif", "sub/x.gif.png", "x.gif"], {"sub/x.gif", "sub/x.gif.png"}),
        (["x.gif", "x.gif.png/y.png"], {"x.gif", "x.gif.png/y.png"}),
        (["restored.csv/y.png", "z.png"], {"restored.csv/y.png"}),
        (["x.png", "X.png", "x.PNG", "x.jpg"], set()),
    ],
)
def test_two_photographs_of_one_target(toy, restorer, found, tmp_path, names, refused):
    for name in (*names, "good.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        picture("P" if name.endswith("gif") else "RGB").save(tmp_path / "in" / name)
    for overwrite in (False, True):
        photos.restore_photos(
            *(tmp_path / "in", tmp_path / "out", restorer, PhotoOptions(), tmp_path / "none"),
            overwrite=overwrite,
            progress=False,
        )
        rows = rows_of(tmp_path / "out" / "restored.csv")
        clash = [row for row in rows if "rename" in row["reason"]]
        assert {row["photo"] for row in clash} == refused
        good = [row["output"] for row in rows if row["status"] == "restored"]
        assert len(set(good)) == len(good) == len(names) + 1 - len(refused)
    if len(refused) == 2:
        assert all(name in row["reason"] for name in refused for row in clash)


def test_a_photograph_in_the_place_of_a_face(toy, restorer, found, tmp_path):
    (tmp_path / "in").mkdir()
    picture().save(tmp_path / "in" / "a.png")
    run(tmp_path, restorer)
    [before] = (tmp_path / "out" / "faces").glob("a-*before.png")
    (tmp_path / "in" / "faces").mkdir()
    (tmp_path / "in" / "faces" / before.name).write_bytes(before.read_bytes())
    _, rows = run(tmp_path, restorer)
    assert [row["status"] for row in rows] == ["restored", "failed"]
    assert "name of another result" in rows[1]["reason"]


def test_what_cannot_be_read_stands_in_nobodys_way(toy, restorer, found, tmp_path):
    (tmp_path / "in").mkdir()
    picture().save(tmp_path / "in" / "x.png")
    (tmp_path / "in" / "x").write_text("no photograph, and x.png would be its name")
    (tmp_path / "in" / "y.gif").symlink_to("nowhere")
    picture().save(tmp_path / "in" / "y.gif.png")
    _, rows = run(tmp_path, restorer)
    status = {row["photo"]: row["status"] for row in rows}
    assert status == {
        "x": "failed",
        "x.png": "restored",
        "y.gif": "failed",
        "y.gif.png": "restored",
    }


def test_another_folders_photograph_of_the_same_name(toy, restorer, found, tmp_path):
    for folder, turn in (("x", 0), ("y", 90)):
        (tmp_path / folder).mkdir()
        picture().rotate(turn).save(tmp_path / folder / "IMG_0001.png")
    picture().save(tmp_path / "x" / "other.png")
    run(tmp_path, restorer, folder="x")
    first = (tmp_path / "out" / "IMG_0001.png").read_bytes()
    counts, rows = run(tmp_path, restorer, folder="y")
    assert counts["failed"] == 1 and "--overwrite" in rows[0]["reason"]
    assert (tmp_path / "out" / "IMG_0001.png").read_bytes() == first
    assert rows[1]["photo"] == "other.png"  # what the folder holds keeps its row
    assert run(tmp_path, restorer, folder="x")[0]["kept"] == 2

    (tmp_path / "x").rename(tmp_path / "moved")  # the same photographs in another place
    assert run(tmp_path, restorer, folder="moved")[0]["kept"] == 2
    picture().rotate(180).save(tmp_path / "moved" / "IMG_0001.png")
    (tmp_path / "moved").rename(tmp_path / "x")
    counts, rows = run(tmp_path, restorer, folder="x")  # edited in its place: its own
    assert counts["restored"] == 2 and counts["failed"] == 0


def test_overwrite_replaces_what_was_restored_alone(toy, restorer, found, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.gif", "c.jpg"):
        picture("P" if name == "b.gif" else "RGB").save(tmp_path / "in" / name)
    clear().save(tmp_path / "in" / "d.jpg", "PNG")
    words = (tmp_path / "in", tmp_path / "out", restorer, PhotoOptions(), tmp_path / "none")
    (tmp_path / "out").mkdir()
    mine = {"a.png": b"mine", "b.gif.png": b"mine", "d.jpg.png": b"mine"}
    for name, content in mine.items():
        (tmp_path / "out" / name).write_bytes(content)
    for overwrite in (False, True):
        photos.restore_photos(*words, overwrite=overwrite, progress=False)
        rows = rows_of(tmp_path / "out" / "restored.csv")
        assert [row["status"] for row in rows] == ["failed", "failed", "restored", "failed"]
        assert {name: (tmp_path / "out" / name).read_bytes() for name in mine} == mine
    for name in mine:
        (tmp_path / "out" / name).unlink()
    for _ in range(2):
        counts = photos.restore_photos(*words, overwrite=True, progress=False)
        assert counts["restored"] == 4
    (tmp_path / "other").mkdir()
    picture().rotate(90).save(tmp_path / "other" / "a.png")
    words = (tmp_path / "other", *words[1:])
    assert photos.restore_photos(*words, progress=False)["failed"] == 1
    assert photos.restore_photos(*words, overwrite=True, progress=False)["restored"] == 1


def test_a_result_never_replaces_an_input(toy, restorer, found, tmp_path):
    for folder in ("in", "out"):
        (tmp_path / folder).mkdir()
    picture().save(tmp_path / "in" / "a.png")
    (tmp_path / "out" / "a.png").symlink_to("../in/a.png")
    before = (tmp_path / "in" / "a.png").read_bytes()
    for overwrite in (False, True):
        photos.restore_photos(
            *(tmp_path / "in", tmp_path / "out", restorer, PhotoOptions(), tmp_path / "none"),
            overwrite=overwrite,
            progress=False,
        )
        [row] = rows_of(tmp_path / "out" / "restored.csv")
        assert "is one of the photographs" in row["reason"]
        assert (tmp_path / "in" / "a.png").read_bytes() == before


def test_colours_of_a_profile_stay_and_faces_are_srgb(toy, restorer, found, tmp_path):
    own = Image.fromarray(as_adobe(picture()))
    (tmp_path / "in").mkdir()
    own.save(tmp_path / "in" / "a.png", icc_profile=ADOBE)
    run(tmp_path, restorer)
    shown = opened(tmp_path / "out" / "a.png")
    assert shown.info["icc_profile"] == ADOBE and mean_difference(shown, own) < 1
    [face] = (tmp_path / "out" / "faces").glob("*before.png")
    (tmp_path / "plain").mkdir()
    picture().save(tmp_path / "plain" / "a.png")
    photos.restore_photos(
        *(tmp_path / "plain", tmp_path / "out2", restorer, PhotoOptions(), tmp_path / "none"),
        progress=False,
    )
    assert mean_difference(opened(face), opened(tmp_path / "out2" / "faces" / face.name)) < 1


def test_a_photograph_that_is_named_is_read_whatever_its_suffix(toy, restorer, found, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("scan.xyz", "scan"):
        picture().save(tmp_path / "in" / name, "PNG")
        counts, rows = run(tmp_path, restorer, folder=f"in/{name}")
        [row] = [row for row in rows if row["photo"] == name]
        assert row["output"] == f"{name}.png" and "written as PNG" in row["note"]
    os.mkfifo(tmp_path / "in" / "pipe.png")
    counts, rows = run(tmp_path, restorer, folder="in/pipe.png")
    [row] = [row for row in rows if row["photo"] == "pipe.png"]
    assert (counts["failed"], row["reason"]) == (1, "not a regular file")


def test_an_empty_folder_is_told(toy, restorer, tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(ValueError, match="no photographs in"):
        run(tmp_path, restorer)
