"""Photographs -> faces -> parsing maps -> back into the photograph."""

import doctest
import hashlib
import importlib
import os
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from scipy import ndimage
from skimage import data
from skimage.registration import phase_cross_correlation

from frcore.config import Dataset, Labels, Split
from frcore.faces import align, build, detect, kinds, listings, parsing_maps, paste, people, sources
from frcore.faces.kinds import digiface as gan
from frcore.faces.kinds import orl
from frcore.io.assets import catalogue
from frcore.io.images import BadImage, read_image, read_photo
from frcore.seeds import torch_generator


def canonical_points(size: int, crop_scale: float = 1.0, crop_shift: float = 0.1) -> np.ndarray:
    """Where both eyes and the mouth of a mean frontal face lie after alignment: 3 x 2, pixels."""
    half = 0.2428 / 2  # shares of FFHQ's side, measured on 523 frontal faces
    eye_mouth = 0.2631
    y = -crop_shift * eye_mouth
    shares = np.array([[-half, y], [half, y], [0, y + eye_mouth]]) / crop_scale
    return (0.5 + shares) * size - 0.5


def paste_mask(shape: tuple[int, int], patches, scale: int = 1) -> np.ndarray:
    """What share of each pixel paste_faces replaces: float32 of `shape` (sH, sW) in [0, 1]."""
    mask = np.zeros(shape, np.float32)
    for patch in patches:
        placed = paste._place(patch, scale, shape)
        if placed is not None:
            window, _, weight = placed
            mask[window] = 1 - (1 - mask[window]) * (1 - weight)
    return mask


# SHA-256 of the pixels of the generator's first samples, seed 0
DIGIFACE = [
    "58dc90c44a8bca011d768b0c976f558e98b57841a3dfaaa2856af9f47f27bfde",
    "d1cd7917602e7749bee3baab5f2da81291f7db25fe420c6b225f37bd4e0dbf98",
    "91cca5323603fc475f848887c670745a87a1ca450779899e3fc1b6d8262ae119",
    "fa1d345af71a1cc46170c3496c8ecd116571c008d3e0f5977116b2459199238f",
    "84283de3242c81c595138325c91aefde9abbd0dbe728ef94a00f59a79c996595",
    "23ef2ed7060ecf210e4379a9878ec727f62697097cbe2b776be58a00d655473d",
    "25c3830434984c80ca0a6b9c0f2f49e13c709f37c56731afc05a2bc5b70dec85",
    "c5454d085598b017a091847af94ca22d1bb77ac6aa549ffc43554e3e76365f61",
    "0817f0d56b3caa3ee17d4772971b72b919bfbe98a035175e6e01da194a17349b",
    "f84189d20f5d3e631f89cdf755153bce852e6f6a5c806623a438891536b31c38",
]


@pytest.fixture(scope="module")
def digiface(resources):
    return resources("digiface_generator") / gan.GENERATOR_FILE


@pytest.fixture(scope="module")
def hog(resources):
    return detect.load_detector("hog", resources("dlib_68"))


@pytest.fixture(scope="module")
def astronaut():
    return Image.fromarray(data.astronaut())


@pytest.fixture(scope="module")
def portrait(resources):
    """A tinted ORL photograph, 184 x 224: found by HOG when enlarged twice."""
    grey = Image.open(resources("orl") / orl.FOLDER / "s1/1.pgm")
    grey = np.asarray(grey.resize((184, 224), Image.Resampling.BICUBIC), dtype=float)
    return Image.fromarray(np.uint8(grey[..., None] * [1.0, 0.8, 0.6]))


@pytest.fixture
def landmarks(hog, astronaut):
    return detect.find_faces(astronaut, hog)[0].landmarks.copy()


def run_stage(folder, assets, dataset, seed=0):
    """All shards and their join -> (rows of faces.csv, rows of quarantine.csv, summary)."""
    tables = [(folder / f"{k:04d}.csv", folder / f"{k:04d}.q.csv") for k in range(dataset.shards)]
    for k, (faces, quarantine) in enumerate(tables):
        build.build_shard(
            "toy", dataset, k, assets, seed, folder / f"{k:04d}", faces, quarantine
        )  # fmt: skip
    out = folder / "faces.csv", folder / "quarantine.csv"
    summary = build.join_shards("toy", dataset, seed, *map(list, zip(*tables)), *out)
    return build.read_table(out[0]), build.read_table(out[1]), summary


@pytest.mark.parametrize("module", [listings, kinds])
def test_examples_in_docstrings(module):
    result = doctest.testmod(module)
    assert result.attempted > 0 and result.failed == 0


# sources


def test_digiface_samples_are_recorded(digiface):
    found = [hashlib.sha256(gan.sample(digiface, 0, i).tobytes()).hexdigest() for i in range(10)]
    assert found == DIGIFACE


def test_digiface_equals_torchs_own_layers(digiface):
    """Independent reference: the same network of nn.ConvTranspose2d and nn.BatchNorm2d."""
    state = torch.load(digiface, map_location="cpu", weights_only=True)["netG_state_dict"]
    layers = []
    for before, after in ((100, 512), (512, 256), (256, 128), (128, 64), (64, 3)):
        stride = (1, 0) if before == 100 else (2, 1)
        layers.append(torch.nn.ConvTranspose2d(before, after, 4, *stride, bias=False))
        if after > 3:
            layers += [torch.nn.BatchNorm2d(after), torch.nn.ReLU()]
    net = torch.nn.Sequential(*layers, torch.nn.Tanh())
    net.load_state_dict({key.removeprefix("main."): value for key, value in state.items()})
    net = net.double().eval()
    for i in (3, 12):
        generator = torch_generator(7, "digiface", i)
        with torch.no_grad():
            image = net(torch.randn(1, 100, 1, 1, dtype=torch.float64, generator=generator))[0]
        expected = ((image + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(gan.sample(digiface, 7, i), expected)


def test_digiface_depends_on_seed_and_index(digiface):
    one, two = (gan.list_samples(digiface, n, 5) for n in (3, 20))
    assert one == two[:3]
    assert np.array_equal(gan.read(one[2]), gan.read(two[2]))
    other = gan.list_samples(digiface, 3, 6)[2]
    assert not np.array_equal(gan.read(one[2]), gan.read(other))
    assert sources.digest(one[2]) == ""


def test_orl_people(resources):
    dataset = Dataset(source="orl")
    photos = sources.list_photos(dataset, resources("orl"), 0)
    assert len(photos) == 400 and len({photo.id for photo in photos}) == 400
    assert {photo.person for photo in photos} == {f"s{i}" for i in range(1, 41)}
    assert all(photo.photo.startswith(photo.person + "/") for photo in photos)
    assert sources.read(photos[0]).size == (92, 112)
    few = sources.list_photos(dataset.model_copy(update={"limit": 7}), resources("orl"), 0)
    assert few == photos[:7]


def test_missing_sources_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="weights.tar"):
        sources.list_photos(Dataset(source="digiface"), tmp_path, 0)
    with pytest.raises(FileNotFoundError, match="expected 400"):
        sources.list_photos(Dataset(source="orl"), tmp_path, 0)
    with pytest.raises(NotADirectoryError, match="nowhere"):
        sources.list_folder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no photographs"):
        sources.list_photos(Dataset(source="folder", path=str(tmp_path)), tmp_path, 0)


@pytest.mark.parametrize(("length", "n"), [(10, 3), (3, 3), (2, 5), (0, 2), (400, 7)])
def test_shards_are_contiguous_and_balanced(length, n):
    parts = [sources.shard(range(length), k, n) for k in range(n)]
    assert [item for part in parts for item in part] == list(range(length))
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    with pytest.raises(ValueError, match="shard"):
        sources.shard(range(length), n, n)


# fmt: off
NAMES = [
    "a.png", "a.jpg", "A.png", "b/a.png", "b_a.png", "b-a.png", "c/a.png", "Été.jpg", "Ete.jpg",
    "写真.jpg", "照片.jpg", "👵🏽.png", "sub.dir/x.y.png", ".hidden/z.png", "b/.secret.jpg",
    "notes.txt", "no_suffix", "with space.jpg", "with  space.jpg", "x" * 240 + ".jpg",
    "ends.in.dot..png",
]
# fmt: on


def fill(folder, names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return folder


def test_ids_are_unique_safe_and_stable(tmp_path):
    photos = sources.list_folder(fill(tmp_path, NAMES))
    assert len(photos) == len(NAMES) - 2  # the hidden ones
    ids = [photo.id for photo in photos]
    assert len({name.lower() for name in ids}) == len(ids)
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,79}", name) for name in ids)
    assert all(photo.person == photo.id for photo in photos)

    before = {photo.photo: photo.id for photo in photos}
    (tmp_path / "a.webp").write_bytes(b"x")
    after = {photo.photo: photo.id for photo in sources.list_folder(tmp_path)}
    assert before.items() < after.items()


def test_undecodable_name(tmp_path):
    raw = os.fsencode(tmp_path) + b"/caf\xe9.jpg"
    with open(raw, "wb") as file:
        file.write(b"x")
    (photo,) = sources.list_folder(tmp_path)
    assert photo.photo == "caf\\xe9.jpg"
    assert photo.id.startswith("caf")
    photo.photo.encode("utf-8")
    with pytest.raises(BadImage, match="not an image"):
        sources.read(photo)


def test_links_are_followed_once(tmp_path):
    real = fill(tmp_path / "real", ["p.jpg"])
    shown = fill(tmp_path / "shown", ["q.jpg"])
    (shown / "linked").symlink_to(real)
    (shown / "loop").symlink_to(shown)
    (shown / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    os.mkfifo(shown / "pipe.jpg")
    photos = {photo.photo: photo for photo in sources.list_folder(shown)}
    assert set(photos) == {"q.jpg", "linked/p.jpg", "gone.jpg", "pipe.jpg"}
    with pytest.raises(BadImage, match="broken link"):
        sources.read(photos["gone.jpg"])
    with pytest.raises(BadImage, match="not a regular file"):
        sources.read(photos["pipe.jpg"])


def test_file_without_permission(tmp_path):
    path = fill(tmp_path, ["p.png"]) / "p.png"
    path.chmod(0)
    (photo,) = sources.list_folder(tmp_path)
    root = os.geteuid() == 0
    try:
        if root:  # root may read everything
            os.seteuid(65534)
        with pytest.raises(BadImage, match="Permission denied"):
            sources.read(photo)
    finally:
        if root:
            os.seteuid(0)


def test_links_to_themselves_stop_nothing(tmp_path):
    fill(tmp_path, ["a.jpg", "sub/b.jpg"])
    (tmp_path / "self.png").symlink_to("self.png")
    (tmp_path / "sub" / "one").symlink_to("two")
    (tmp_path / "sub" / "two").symlink_to("one")
    (tmp_path / "sub" / "up").symlink_to("..")
    photos = {photo.photo: photo for photo in sources.list_folder(tmp_path)}
    assert set(photos) == {"a.jpg", "self.png", "sub/b.jpg", "sub/one", "sub/two"}
    with pytest.raises(BadImage, match="unreadable: Too many levels"):
        sources.read(photos["self.png"])


def test_no_digest_of_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (photo,) = sources.list_folder(tmp_path)
    with pytest.raises(OSError, match="not a regular file"):
        sources.digest(photo)


def test_people(tmp_path):
    fill(tmp_path, ["anna/2019/a_1.jpg", "anna/b_2.jpg", "bea/c_d_3.jpg", "x.jpg"])
    listed = sources.list_folder(tmp_path)

    def found(how, source="folder"):
        path = {"path": str(tmp_path)} if source == "folder" else {}
        person = people.finder(Dataset(source=source, people=how, **path))
        return {photo.photo: person(photo.photo, photo.person) for photo in listed}

    own = sources.photo_id(Path("x.jpg"))
    assert found("subfolder") == {
        "anna/2019/a_1.jpg": "anna", "anna/b_2.jpg": "anna", "bea/c_d_3.jpg": "bea", "x.jpg": own,
    }  # fmt: skip
    assert list(found("file").values()) == ["a", "b", "c_d", "x"]
    assert len(set(found("none").values())) == 4
    assert found("file", "orl") == found("none")  # that kind knows its people

    table = tmp_path / ".people.csv"
    table.write_text("photo,person\nanna/b_2.jpg,Anna\n./x.jpg,Änne\n", encoding="utf-8")
    named = found(str(table))
    assert (named["anna/b_2.jpg"], named["x.jpg"]) == ("Anna", "Änne")
    assert named["bea/c_d_3.jpg"] == sources.photo_id(Path("bea/c_d_3.jpg"))
    for text, message in (
        ("photo,person\nnope.jpg,A\n", "not in"),
        ("file,name\nx.jpg,A\n", "columns photo,person"),
        ("photo,person\nx.jpg,\n", "without photo or person"),
    ):
        table.write_text(text)
        with pytest.raises(ValueError, match=message):
            found(str(table))
    with pytest.raises(ValueError, match="cannot read"):
        found(str(tmp_path / "none.csv"))


# kinds of datasets


NEW_KIND = """
from frcore.faces.sources import Photo
from PIL import Image

ASSETS = ("dlib_68", "orl")


def list_photos(dataset, assets, seed):
    return [Photo(f"grey{i}", f"grey {i}", f"p{i % 2}", assets, i, seed) for i in (3, 1, 2)]


def read(photo):
    return Image.new("RGB", (32, 32), (photo.index,) * 3)
"""


def test_a_kind_of_dataset_is_one_file(tmp_path, monkeypatch):
    assert kinds.kinds() == ["digiface", "folder", "orl"]
    with pytest.raises(ValidationError, match="unknown kind of dataset 'toy'") as caught:
        Dataset(source="toy")
    assert len(caught.value.errors()) == 1
    (tmp_path / "kinds").mkdir()
    path = tmp_path / "kinds" / "toy.py"
    path.write_text("import no_such_module\n" + NEW_KIND)
    monkeypatch.setattr(kinds, "__path__", [*kinds.__path__, str(path.parent)])
    importlib.invalidate_caches()
    assert kinds.kinds() == ["digiface", "folder", "orl", "toy"]
    assert kinds.assets_of("toy") == ("dlib_68", "orl")  # nothing was imported
    path.write_text(NEW_KIND)
    monkeypatch.delitem(sys.modules, "frcore.faces.kinds.toy", raising=False)

    labels = Labels(kind="model", model="parser")
    dataset = Dataset(source="toy", shards=2, aligned=True, size=16, labels=labels, limit=2)
    faces, quarantine, summary = run_stage(tmp_path, tmp_path / "none", dataset)
    assert [(row["id"], row["person"], row["photo_sha256"]) for row in faces] == [
        ("grey1", "p1", ""), ("grey2", "p0", ""),
    ]  # fmt: skip
    assert not quarantine and summary == "2 faces of 2 photographs"
    assert (read_image(tmp_path / "0001" / "grey2.png") == 2).all()
    path.write_text("assets = ()")
    with pytest.raises(ValueError, match=r"toy.py: no ASSETS = \(...\) at its head"):
        kinds.assets_of("toy")


@pytest.mark.parametrize("kind", kinds.kinds())
def test_every_kind_has_what_the_stage_calls(kind):
    module = kinds.load(kind)
    assert kinds.assets_of(kind) == module.ASSETS
    assert callable(module.list_photos) and callable(module.read)
    assert set(module.ASSETS) <= set(catalogue())


def test_nearest_kind_is_named():
    with pytest.raises(ValidationError, match=r"kind of dataset 'foldr' \(did you mean 'folder'"):
        Dataset(source="foldr", path="x")
    with pytest.raises(ValueError, match="unknown kind"):
        kinds.assets_of("nowhere")


def test_listings_need_no_torch():
    code = "import sys, frcore.faces.kinds as k, frcore.faces.listings; k.assets_of('digiface')"
    code += "; print([m for m in ('torch', 'PIL', 'numpy') if m in sys.modules])"
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


# digests of what the stage reads


def listed_and_digest(folder, **more):
    """What the stage reads of a folder (names and contents), and the digest of its listing."""
    dataset = Dataset(source="folder", path=str(folder), **more)
    photos = sources.list_photos(dataset, folder, 0)
    seen = [(p.photo, p.path.read_bytes() if p.path.is_file() else None) for p in photos]
    return seen, listings.photos_digest(dataset)


def test_the_digest_of_photographs_follows_what_is_read(tmp_path):
    """Also in linked folders; and what the stage does not read changes nothing."""
    linked = fill(tmp_path / "elsewhere", ["p.jpg", "deep/q.jpg"])
    folder = fill(tmp_path / "a" / "photos", ["a.jpg", "b.jpg", ".hidden.jpg"])
    (folder / "linked").symlink_to(linked)
    (folder / "self.png").symlink_to("self.png")
    (folder / "loop").symlink_to(".")
    seen = [listed_and_digest(folder)]

    def changed():
        seen.append(listed_and_digest(folder))
        assert seen[-1][0] != seen[-2][0]
        return seen[-1][1] != seen[-2][1]

    (linked / "deep" / "new.jpg").write_bytes(b"x")
    assert changed()
    (linked / "p.jpg").write_bytes(b"longer")
    assert changed()
    (linked / "p.jpg").rename(linked / "r.jpg")
    assert changed()
    (folder / "a.jpg").unlink()
    assert changed()
    (folder / "c.jpg").symlink_to(tmp_path / "nowhere")
    assert changed()
    (folder / "folder.jpg").mkdir()  # ends in the quarantine
    assert changed()
    assert len({digest for _, digest in seen}) == len(seen)

    fill(folder, [".b.jpg", ".hidden/x.jpg"])
    (folder / "nothing").mkdir()
    assert listed_and_digest(folder) == seen[-1]
    first = listed_and_digest(folder, limit=1)
    os.utime(linked / "r.jpg", (1, 1))  # not the first
    assert listed_and_digest(folder)[1] != seen[-1][1]
    assert listed_and_digest(folder, limit=1) == first
    os.utime(folder / "b.jpg", (1, 1))
    assert listed_and_digest(folder, limit=1)[1] != first[1]

    before = listed_and_digest(folder)
    (tmp_path / "a").rename(tmp_path / "moved")
    assert listed_and_digest(tmp_path / "moved" / "photos") == before


def test_digests_of_other_kinds_are_empty(tmp_path):
    for source in ("orl", "digiface"):
        dataset = Dataset(source=source, people="subfolder")
        assert listings.photos_digest(dataset) == listings.labels_digest(dataset) == ""
        assert listings.people_digest(dataset) == ""
    assert listings.photos_digest(Dataset(source="folder", path=str(tmp_path / "none")))


def test_digest_of_people(tmp_path):
    table = tmp_path / "people.csv"

    def digest(how):
        return listings.people_digest(Dataset(source="folder", path=str(tmp_path), people=how))

    assert digest("none") == ""
    assert digest(str(table)) == "unreadable"
    table.write_text("photo,person\nx.jpg,A\n")
    assert digest(str(table)) == hashlib.sha256(table.read_bytes()).hexdigest()
    table.rename(tmp_path / "moved.csv")
    before = digest(str(tmp_path / "moved.csv"))
    (tmp_path / "moved.csv").write_text("photo,person\nx.jpg,B\n")
    assert digest(str(tmp_path / "moved.csv")) != before
    assert len({digest(how) for how in ("none", "subfolder", "file")}) == 3


def test_digest_of_label_files(tmp_path):
    real = fill(tmp_path / "real", ["00001_skin.png"])
    fill(tmp_path / "labels", ["00000_skin.png", "README", ".00000_hair.png"])
    (tmp_path / "labels" / "0").symlink_to(real)
    (tmp_path / "labels" / "0" / "up").symlink_to(tmp_path / "labels")
    labels = Labels(kind="folder", path=str(tmp_path / "labels"))
    dataset = Dataset(source="orl", labels=labels)
    digests = [listings.labels_digest(dataset)]
    (real / "00001_skin.png").write_bytes(b"other")
    digests.append(listings.labels_digest(dataset))
    fill(real, ["00001_hair.png"])
    digests.append(listings.labels_digest(dataset))
    os.utime(tmp_path / "labels" / "00000_skin.png", (1, 1))
    digests.append(listings.labels_digest(dataset))
    assert len(set(digests)) == 4
    fill(tmp_path / "labels", ["notes.txt", ".more.png"])
    assert listings.labels_digest(dataset) == digests[-1]


# detect


def test_landmarks_follow_the_scale_of_the_photograph(hog, astronaut):
    """The same face at other sizes has its landmarks at the same places."""
    (face,) = detect.find_faces(astronaut, hog)
    for scale, enlarge in ((0.5, 2), (5, 1)):  # below HOG's limit; above the detection's 1600 px
        size = tuple(round(side * scale) for side in astronaut.size)
        resized = astronaut.resize(size, Image.Resampling.BICUBIC)
        (other,) = detect.find_faces(resized, hog, enlarge)
        moved = (other.landmarks + 0.5) / scale - 0.5
        assert np.abs(moved - face.landmarks).mean() < 1.5
        assert other.width / scale == pytest.approx(face.width, rel=0.2)


def test_faces_are_sorted_from_the_left(hog, astronaut):
    part = astronaut.crop((130, 30, 330, 230))
    wide = Image.new("RGB", (620, 260), (90, 90, 90))
    for left, top in ((410, 0), (0, 60), (205, 30)):
        wide.paste(part, (left, top))
    faces = detect.find_faces(wide, hog)
    assert len(faces) == 3
    assert [round(face.box[0] / 205) for face in faces] == [0, 1, 2]
    assert detect.find_faces(Image.new("RGB", (300, 300)), hog) == []


def test_mmod_finds_the_same_face(hog, astronaut, resources):
    mmod = detect.load_detector("mmod", resources("dlib_68", "dlib_mmod"))
    part = astronaut.crop((100, 0, 360, 260))
    (found,), (expected,) = detect.find_faces(part, mmod), detect.find_faces(part, hog)
    assert np.abs(found.landmarks - expected.landmarks).mean() < 4


def test_detector_errors(tmp_path):
    with pytest.raises(ValueError, match="hog or mmod"):
        detect.load_detector("haar", tmp_path)
    with pytest.raises(FileNotFoundError, match="shape_predictor_68"):
        detect.load_detector("hog", tmp_path)


# align


@pytest.mark.parametrize("size", [64, 256])
@pytest.mark.parametrize(("crop_scale", "crop_shift"), [(1.0, 0.1), (0.7, 0.1), (0.7, 0.2)])
def test_eyes_land_at_the_predicted_place(landmarks, size, crop_scale, crop_shift):
    """For turned, scaled, shifted and mirrored copies of a face."""
    expected = canonical_points(size, crop_scale, crop_shift)
    for angle, zoom in ((0, 1), (0.5, 0.3), (-2.5, 20)):
        turn = zoom * np.array(
            [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        )  # fmt: skip
        moved = landmarks @ turn.T + [40, -300]
        square = align.crop_square(moved, crop_scale, crop_shift)
        transform = align.square_transform(square, size)
        left, right, mouth = align.eyes_and_mouth(align.apply_transform(transform, moved))
        np.testing.assert_allclose(left, expected[0], atol=0.025 * size / crop_scale)
        np.testing.assert_allclose(right, expected[1], atol=0.025 * size / crop_scale)
        np.testing.assert_allclose(mouth, expected[2], atol=0.06 * size / crop_scale)
        # exact: the crop's centre is `crop_shift` below the eyes
        centre = (left + right) / 2 + crop_shift * (mouth - (left + right) / 2)
        np.testing.assert_allclose(centre, (size - 1) / 2, atol=1e-6)
        corners = align.apply_transform(transform, square)
        edge = size - 0.5
        np.testing.assert_allclose(
            corners, [[-0.5, -0.5], [-0.5, edge], [edge, edge], [edge, -0.5]], atol=1e-6
        )
        back = align.apply_transform(align.invert_transform(transform), corners)
        np.testing.assert_allclose(back, square, atol=1e-6)


def test_ffhq_formula(landmarks):
    """Against the published formula written out for crop_scale 1."""
    left, right = landmarks[36:42].mean(0), landmarks[42:48].mean(0)
    mouth, eyes = (landmarks[48] + landmarks[54]) / 2, (left + right) / 2
    v, u = right - left, mouth - eyes
    x = np.array([v[0] + u[1], v[1] - u[0]])
    x *= max(2.0 * np.hypot(*v), 1.8 * np.hypot(*u)) / np.hypot(*x)
    c, y = eyes + 0.1 * u, np.array([-x[1], x[0]])
    np.testing.assert_allclose(
        align.crop_square(landmarks), [c - x - y, c - x + y, c + x + y, c + x - y]
    )


def test_yaw(landmarks):
    mirrored = landmarks * [-1, 1]
    order = [*range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1)]
    order += [45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40]
    order += [54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65]
    mirrored = mirrored[order]
    assert abs(align.yaw(landmarks)) < 0.15
    assert align.yaw(mirrored) == pytest.approx(-align.yaw(landmarks))
    turned = landmarks.copy()
    turned[30, 0] += 0.4 * (landmarks[45, 0] - landmarks[36, 0])
    assert align.yaw(turned) > 0.4
    symmetric = (landmarks + mirrored + [2 * landmarks[30, 0], 0]) / 2
    assert align.yaw(symmetric) == pytest.approx(0, abs=1e-9)


def test_landmarks_are_checked():
    for bad in (np.zeros((5, 2)), np.full((68, 2), np.nan)):
        with pytest.raises(ValueError, match="68 x 2"):
            align.crop_square(bad)
    with pytest.raises(ValueError, match="coincide"):
        align.crop_square(np.ones((68, 2)))


def box_square(x0, y0, side):
    """Corners of an upright crop whose first pixel is (x0, y0)."""
    low, high = np.array([x0, y0]) - 0.5, np.array([x0, y0]) + side - 0.5
    return np.array([low, [low[0], high[1]], high, [high[0], low[1]]])


def test_outside_share():
    assert align.outside_share(box_square(0, 0, 100), 100, 100) == 0
    assert align.outside_share(box_square(-50, 0, 100), 100, 100) == pytest.approx(0.5, abs=0.01)
    assert align.outside_share(box_square(75, 75, 100), 100, 100) == pytest.approx(
        15 / 16, abs=0.01
    )
    assert align.outside_share(box_square(500, 0, 100), 100, 100) == 1


def test_warp_keeps_sharpness_and_place(astronaut):
    """Cutting without a change of scale returns the photograph's own pixels."""
    face = align.warp(astronaut, box_square(150, 60, 128), 128)
    expected = np.asarray(astronaut)[60:188, 150:278]
    error = face[4:-4, 4:-4].astype(float) - expected[4:-4, 4:-4]
    assert 10 * np.log10(255**2 / np.mean(error**2)) > 38
    shift = phase_cross_correlation(expected.mean(2), face.mean(2), upsample_factor=100)[0]
    assert np.abs(shift).max() < 0.05


@pytest.mark.parametrize("factor", [3, 10, 33])
def test_warp_does_not_alias(factor):
    """Stripes too fine for the aligned face become their mean, at any reduction."""
    side = 64 * factor
    stripes = np.zeros((side, side, 3), np.uint8)
    stripes[:, ::2] = 200
    face = align.warp(Image.fromarray(stripes), box_square(0, 0, side), 64)
    assert np.abs(face[4:-4, 4:-4].astype(int) - 100).max() <= 3


def turned_square(centre, side, degrees):
    """Corners of a crop of any turn."""
    angle = np.deg2rad(degrees)
    x = np.array([np.cos(angle), np.sin(angle)]) * side / 2
    y = np.array([-x[1], x[0]])
    return np.array([centre - x - y, centre - x + y, centre + x + y, centre + x - y])


@pytest.mark.parametrize("degrees", [0, 7, 30, 45, 110])
@pytest.mark.parametrize("zoom", [1.2, 1.7, 1.9, 2.5, 4.1, 7.3])
def test_gratings_too_fine_for_the_face_come_out_flat(zoom, degrees):
    """In any direction and at any turn: half as fine again as the finest that the face can hold,
    and finer. `zoom` is photograph pixels per aligned pixel."""
    side = 64 * zoom
    width = int(1.6 * side)
    centre = np.array([width / 2 + 0.3, width / 2 - 0.2])
    square = turned_square(centre, side, degrees)
    for frequency in (0.75, 0.9, 1.1, 1.5):  # cycles per aligned pixel along the nearer axis
        for direction in (0, 20, 45, 90):
            away = np.deg2rad(direction % 90)
            length = frequency / max(np.cos(away), np.sin(away)) / zoom
            angle = np.deg2rad(degrees + direction)
            kx, ky = length * np.cos(angle), length * np.sin(angle)
            if max(abs(kx), abs(ky)) > 0.5:
                continue  # too fine for the photograph
            place = np.arange(width)
            wave = 127.5 + 100 * np.cos(2 * np.pi * (kx * place + ky * place[:, None]))
            photo = Image.fromarray(np.uint8(np.round(wave))).convert("RGB")
            face = align.warp(photo, square, 64)[4:-4, 4:-4].astype(float)
            assert face.std() * np.sqrt(2) < 4, (frequency, direction)  # of an amplitude of 100
            assert abs(face.mean() - 127.5) < 0.7


@pytest.mark.parametrize("zoom", [0.2, 0.5, 0.79, 0.81, 1.0, 1.79, 2.0, 2.7, 4.0])
def test_a_dot_lies_where_the_transform_says(zoom):
    """At any turn, to 0.02 px of the coarser of photograph and face."""
    rng = np.random.default_rng(0)
    side, sigma = 64 * zoom, max(2 * zoom, 1.2)
    width = int(1.5 * side) + 60
    place = np.arange(width)
    for degrees in (0, 0.3, 5, 30, 45, 90, 200):
        centre = width / 2 + rng.uniform(-0.5, 0.5, 2)
        square = turned_square(centre, side, degrees)
        dot = centre + zoom * rng.uniform(-8, 8, 2)
        x, y = (np.exp(-((place - at) ** 2) / (2 * sigma**2)) for at in dot)
        photo = Image.fromarray(np.uint8(np.round(40 + 200 * np.outer(y, x)))).convert("RGB")
        face = align.warp(photo, square, 64)[..., 0].astype(float) - 40
        face[np.abs(face) < 1] = 0  # what rounding leaves far from the dot would count for much
        grid = np.arange(64)
        found = np.array([(face.sum(0) * grid).sum(), (face.sum(1) * grid).sum()]) / face.sum()
        wanted = align.apply_transform(align.square_transform(square, 64), dot)
        assert np.abs(found - wanted).max() * min(zoom, 1) < 0.02, degrees


@pytest.mark.parametrize(("side", "degrees"), [(60, 10), (80, 30), (160, 45), (250, 10), (330, 30)])
def test_warp_equals_slow_and_exact_resampling(astronaut, side, degrees):
    """Splines of order 5 at 8 x 8 samples a pixel, then Lanczos, all in floating point."""
    size, samples = 96, 8
    square = turned_square(np.array([230.0, 230.0]), side, degrees)
    x, y = (square[i] - square[0] for i in (3, 1))
    share = (np.arange(size * samples) + 0.5) / (size * samples)
    at_x, at_y = (square[0, i] + share * x[i] + share[:, None] * y[i] for i in (0, 1))
    expected = []
    for channel in np.moveaxis(np.asarray(astronaut, dtype=float), -1, 0):
        fine = ndimage.map_coordinates(channel, [at_y, at_x], order=5, mode="mirror")
        fine = Image.fromarray(fine.astype(np.float32))
        expected.append(np.asarray(fine.resize((size, size), Image.Resampling.LANCZOS)))
    face = align.warp(astronaut, square, size)
    error = face[2:-2, 2:-2] - np.clip(np.stack(expected, axis=-1), 0, 255)[2:-2, 2:-2]
    assert 10 * np.log10(255**2 / np.mean(error**2)) > 47
    assert np.abs(error.mean()) < 0.15  # not darker


def test_warp_gives_the_same_bytes_with_any_number_of_threads(astronaut):
    threads = cv2.getNumThreads()
    faces = []
    try:
        for number in (1, 2, 3):
            cv2.setNumThreads(number)
            for side in (150, 400, 900):  # one sample a pixel; four; beyond the photograph
                square = turned_square(np.array([250.0, 200.0]), side, 20)
                faces.append(align.warp(astronaut, square, 256).tobytes())
            assert cv2.getNumThreads() == number
    finally:
        cv2.setNumThreads(threads)
    assert faces[:3] == faces[3:6] == faces[6:]


def test_warp_outside_the_photograph(astronaut):
    part = astronaut.crop((150, 60, 278, 188))
    pixels = np.asarray(part)
    face = align.warp(part, box_square(-64, -64, 256), 256)
    inside = face[64:192, 64:192]
    error = inside[3:-3, 3:-3].astype(float) - pixels[3:-3, 3:-3]
    assert 10 * np.log10(255**2 / np.mean(error**2)) > 38  # real pixels are not blurred
    assert face[0, 0].astype(int) == pytest.approx(np.median(pixels, axis=(0, 1)), abs=60)
    seam = np.abs(face[64:192, 63].astype(int) - face[64:192, 64]).mean()
    assert seam < 12
    with pytest.raises(ValueError, match="outside the photograph"):
        align.warp(part, box_square(5000, 0, 64), 64)


def test_aligning_an_aligned_face_changes_nothing(hog, astronaut):
    (face,) = detect.find_faces(astronaut, hog)
    aligned = Image.fromarray(align.warp(astronaut, align.crop_square(face.landmarks), 512))
    (again,) = detect.find_faces(aligned, hog)
    transform = align.square_transform(align.crop_square(again.landmarks), 512)
    first, second = (
        np.stack(align.eyes_and_mouth(points))
        for points in (again.landmarks, align.apply_transform(transform, again.landmarks))
    )
    assert np.abs(first - second).mean() < 4  # 512 px; dlib's points scatter by about 1 in 128


# parsing_maps


@pytest.fixture
def aligned_landmarks(landmarks):
    transform = align.square_transform(align.crop_square(landmarks), 256)
    return align.apply_transform(transform, landmarks)


def test_parsing_map_names_the_right_places(aligned_landmarks):
    points = aligned_landmarks
    labels = parsing_maps.parse_landmarks(points, 256)
    assert labels.shape == (256, 256) and labels.dtype == np.uint8

    def at(place):
        x, y = np.round(place).astype(int)
        return parsing_maps.LABELS_10[labels[y, x]]

    assert at(points[36:42].mean(0)) == "l_eye" and at(points[42:48].mean(0)) == "r_eye"
    assert points[36, 0] < points[42, 0]  # "left" is the image's
    assert at(points[19]) == "l_brow" and at(points[24]) == "r_brow"
    assert at(points[30]) == "nose"
    assert at((points[51] + points[62]) / 2) == "u_lip"
    assert at((points[57] + points[66]) / 2) == "l_lip"
    assert at((points[62] + points[66]) / 2) == "mouth"  # she smiles
    assert at((points[3] + points[31]) / 2) == "skin"
    assert at((points[21] + points[22]) / 2 - [0, 15]) == "skin"  # forehead
    assert at([2, 2]) == at([253, 253]) == "background"
    assert set(np.unique(labels)) == set(range(10))


def test_parsing_map_is_sampled_at_pixel_centres():
    """A jaw from x = 9.5 to 21.5 covers the pixels 10..21, whatever the size of the points."""
    points = np.full((68, 2), 16.0)
    points[:17, 0] = np.linspace(9.5, 21.5, 17)
    points[:17, 1] = 20 + 8 * np.sin(np.linspace(0, np.pi, 17))
    points[17:27, 1] = 14
    row = parsing_maps.parse_landmarks(points, 32)[20]
    assert np.flatnonzero(row).tolist() == list(range(10, 22))


def test_mirrored_face_has_the_mirrored_map(aligned_landmarks):
    points = aligned_landmarks
    mirrored = points * [-1, 1] + [255, 0]
    order = [*range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1)]
    order += [45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40]
    order += [54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65]
    labels = parsing_maps.parse_landmarks(points, 256)
    expected = parsing_maps.parse_landmarks(mirrored[order], 256)
    swapped = np.array([0, 1, 3, 2, 5, 4, 6, 7, 8, 9])  # brows and eyes
    assert (swapped[labels[:, ::-1]] == expected).mean() > 0.997


def write_part(folder, index, part, box, side=512):
    mask = np.zeros((side, side, 3), np.uint8)
    x0, y0, x1, y1 = box
    mask[y0:y1, x0:x1] = 255
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(folder / f"{index:05d}_{part}.png")


def test_celebamask_later_parts_overwrite(tmp_path):
    write_part(tmp_path / "1", 2003, "skin", (100, 100, 400, 400))
    write_part(tmp_path / "1", 2003, "hair", (0, 0, 512, 150))
    write_part(tmp_path / "1", 2003, "nose", (200, 140, 300, 300))
    labels = parsing_maps.compose_celebamask(tmp_path, 2003)
    assert labels.shape == (512, 512) and labels.dtype == np.uint8
    names = [parsing_maps.LABELS_19[labels[y, x]] for y, x in ((120, 250), (145, 250), (200, 250))]
    assert names == ["hair", "hair", "nose"]
    assert (labels[350, 350], labels[450, 450]) == (1, 0)
    assert set(np.unique(labels)) == {0, 1, 2, 13}
    small = parsing_maps.compose_celebamask(tmp_path, 2003, 128)
    assert set(np.unique(small)) == {0, 1, 2, 13} and small[86, 86] == 1
    with pytest.raises(FileNotFoundError, match="00007"):
        parsing_maps.compose_celebamask(tmp_path, 7)


# paste


def psnr(a, b):
    return 10 * np.log10(255**2 / max(np.mean((a.astype(float) - b) ** 2), 1e-9))


@pytest.mark.parametrize("scale", [1, 2, 4])
@pytest.mark.parametrize("size", [256, 512])
def test_identity_restorer_leaves_the_photograph(landmarks, astronaut, scale, size):
    """Check 11: outside the mask the same bytes, inside above 35 dB, moved by < 0.1 px."""
    square = align.crop_square(landmarks)
    patch = paste.Patch(align.warp(astronaut, square, size), align.square_transform(square, size))
    background = paste.enlarge_photo(astronaut, scale)
    original = background.copy()
    pasted = paste.paste_faces(background, [patch], scale)
    mask = paste_mask(background.shape[:2], [patch], scale)

    assert np.array_equal(background, original)  # the argument is not changed
    assert np.array_equal(pasted[mask == 0], background[mask == 0])
    side = np.hypot(*(square[3] - square[0])) * scale
    assert mask.max() == 1 and 0.3 * side**2 < mask.sum() < side**2
    assert psnr(pasted[mask == 1], background[mask == 1]) > 35
    rows, columns = (np.flatnonzero(mask.max(axis=axis) > 0.5) for axis in (1, 0))
    window = slice(rows[0], rows[-1]), slice(columns[0], columns[-1])
    shift = phase_cross_correlation(
        background[window].mean(2), pasted[window].mean(2), upsample_factor=100
    )[0]
    assert np.abs(shift).max() < 0.1


def test_pasted_face_covers_its_place_softly(landmarks, astronaut):
    """A red face: fully red in the middle, no step at the edge, nothing outside."""
    square = align.crop_square(landmarks, 0.7)
    red = np.zeros((128, 128, 3), np.uint8)
    red[..., 0] = 255
    patch = paste.Patch(red, align.square_transform(square, 128))
    grey = np.full((512, 512, 3), 100, np.uint8)
    pasted = paste.paste_faces(grey, [patch])
    x, y = np.round(square.mean(axis=0)).astype(int)
    assert pasted[y, x].tolist() == [255, 0, 0]
    steps = np.abs(np.diff(pasted.astype(int), axis=1))
    side = np.hypot(*(square[3] - square[0]))
    assert 0 < steps.max() < 155 * 1.6 / (side / 10) + 2  # a ramp a tenth of the side wide
    # half of the face may not be used
    region = np.zeros((128, 128))
    region[:, :64] = 1
    half = paste.paste_faces(grey, [paste.Patch(red, patch.transform, region)])
    quarter = int(side / 4)
    assert half[y, x - quarter, 0] > 240 and half[y, x + quarter].tolist() == [100, 100, 100]


def test_face_at_the_edge_and_outside(astronaut):
    """A crop beyond the photograph is pasted up to its border; one outside does nothing."""
    white = np.full((64, 64, 3), 255, np.uint8)
    photo = np.zeros((100, 100, 3), np.uint8)
    half = paste.Patch(white, align.square_transform(box_square(-50, 0, 100), 64))
    pasted = paste.paste_faces(photo, [half])
    assert pasted[50, 0].tolist() == [255, 255, 255] and pasted[50, 60].tolist() == [0, 0, 0]
    gone = paste.Patch(white, align.square_transform(box_square(500, 0, 100), 64))
    assert np.array_equal(paste.paste_faces(photo, [gone]), photo)


def test_overlapping_faces_do_not_depend_on_order():
    photo = np.zeros((200, 200, 3), np.uint8)
    patches = [
        paste.Patch(np.full((64, 64, 3), value, np.uint8), align.square_transform(square, 64))
        for value, square in ((200, box_square(0, 0, 150)), (90, box_square(80, 80, 100)))
    ]
    pasted = paste.paste_faces(photo, patches)
    assert np.array_equal(pasted, paste.paste_faces(photo, patches[::-1]))
    assert pasted[130, 130, 0] == 90 and pasted[60, 60, 0] == 200  # the smaller one is on top
    mask = paste_mask((200, 200), patches)
    assert np.array_equal(pasted[..., 0] > 0, mask > 0.004)


def test_fine_faces_do_not_alias_when_pasted():
    """An aligned face finer than the photograph: stripes become their mean."""
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 200
    patch = paste.Patch(stripes, align.square_transform(box_square(10, 10, 80), 512))
    pasted = paste.paste_faces(np.zeros((100, 100, 3), np.uint8), [patch])
    assert np.abs(pasted[30:70, 30:70].astype(int) - 100).max() <= 4


def test_paste_errors():
    square = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match="face"):
        paste.Patch(square.astype(float), np.eye(2, 3))
    with pytest.raises(ValueError, match="transform"):
        paste.Patch(square, np.eye(3))
    with pytest.raises(ValueError, match="region"):
        paste.Patch(square, np.eye(2, 3), np.ones((4, 4)))
    with pytest.raises(ValueError, match="background"):
        paste.paste_faces(square[..., 0], [])


# build


def png_bomb():
    """A valid PNG header of 60000 x 60000 pixels with next to nothing behind it."""

    def chunk(kind, content):
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    body = (
        chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    )
    return b"\x89PNG\r\n\x1a\n" + body


def torture_folder(folder, portrait):
    """Write what people have -> (good: name -> is coloured, bad: name -> reason)."""
    good, bad = {}, {}

    def save(name, image, coloured=True, **options):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, **options)
        good[name] = coloured

    save("plain.png", portrait)
    # stored so that turning by the tag gives the upright photograph
    undo = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE",
            6: "ROTATE_90", 7: "TRANSVERSE", 8: "ROTATE_270"}  # fmt: skip
    for orientation in range(1, 9):
        image = portrait
        if orientation > 1:
            image = portrait.transpose(Image.Transpose[undo[orientation]])
        exif = Image.Exif()
        exif[0x0112] = orientation
        save(f"exif/{orientation}.jpg", image, exif=exif, quality=95)

    grey = portrait.convert("L")
    save("grey.jpg", grey, False, quality=95)
    save("grey16.png", Image.fromarray(np.asarray(grey).astype(np.uint16) * 257), False)
    save("one_bit.png", grey.resize((736, 896)).convert("1"), False)
    rgba = portrait.copy()
    rgba.putalpha(255)
    rgba.putpixel((0, 0), (0, 0, 0, 0))
    save("alpha.png", rgba)
    save("grey_alpha.png", rgba.convert("LA"), False)
    save("cmyk.jpg", portrait.convert("CMYK"), quality=95)
    save("palette.png", portrait.quantize(256), transparency=255)
    save("palette.gif", portrait.quantize(256))
    save("web.webp", portrait, quality=95)
    save("tagged.tiff", portrait)
    save("UPPER.JPG", portrait, quality=95)
    save("with space.png", portrait)
    save("Größe/写真 👵🏽.png", portrait)
    save("same.png", portrait)
    save("same.jpg", portrait, quality=95)
    save("folder.jpg/same.png", portrait)  # inside a folder that is called like a photograph

    def spoil(name, content, reason):
        (folder / name).write_bytes(content)
        bad[name] = reason

    jpeg = (folder / "same.jpg").read_bytes()
    spoil("truncated.jpg", jpeg[: len(jpeg) // 2], "truncated file")
    spoil("cut_png.png", (folder / "plain.png").read_bytes()[:3000], "truncated file")
    spoil("empty.jpg", b"", "empty file")
    spoil("text.png", b"this is not an image", "not an image, or a format that Pillow cannot read")
    spoil("bomb.png", png_bomb(), "too large")
    spoil("notes.txt", b"hello", "not a photograph: suffix .txt")
    spoil("README", b"hello", "not a photograph: suffix missing")
    bad["folder.jpg"] = "a folder, not a photograph"
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    bad["gone.jpg"] = "broken link"
    Image.new("RGB", (300, 200), (30, 120, 200)).save(folder / "sky.png")
    bad["sky.png"] = "no face found"
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    bad["dot.png"] = "no face found"
    Image.new("RGB", (3000, 1)).save(folder / "line.png")
    bad["line.png"] = "no face found"
    (folder / ".hidden.png").write_bytes(b"")
    return good, bad


@pytest.fixture(scope="module")
def torture(tmp_path_factory, resources, portrait):
    """The stage run over the torture folder in three shards."""
    folder = tmp_path_factory.mktemp("photos")
    good, bad = torture_folder(folder, portrait)
    dataset = Dataset(
        source="folder", path=str(folder), shards=3, size=64, crop_scale=0.7, enlarge=2
    )
    out = tmp_path_factory.mktemp("out")
    return (folder, out, dataset, good, bad, *run_stage(out, resources("dlib_68"), dataset))


def test_good_photographs_become_faces_and_bad_ones_are_listed(torture):
    folder, _, _, good, bad, faces, quarantine, summary = torture
    assert {row["photo"] for row in faces} == set(good)
    assert len(faces) == len(good)
    reasons = {row["photo"]: row["reason"] for row in quarantine}
    assert set(reasons) == set(bad)
    for name, reason in bad.items():
        assert reasons[name].startswith(reason), (name, reasons[name])
    assert summary.startswith(
        f"{len(good)} faces of {len(good) + len(bad)} photographs, {len(bad)} quarantined: "
    )
    assert "3 no face found" in summary and "2 not a photograph" in summary
    for row in faces:
        if not (folder / row["photo"]).is_symlink():
            content = (folder / row["photo"]).read_bytes()
            assert row["photo_sha256"] == hashlib.sha256(content).hexdigest()


def test_every_kind_of_file_gives_the_same_face(torture):
    _, out, _, good, _, faces, _, _ = torture
    pixels = {row["photo"]: read_image(next(out.glob(f"0*/{row['id']}.png"))) for row in faces}
    plain = pixels["plain.png"]
    assert plain.shape == (64, 64, 3) and plain.dtype == np.uint8
    for name, coloured in good.items():
        expected = plain.astype(float)
        if not coloured:
            expected = np.repeat(expected @ [[0.299], [0.587], [0.114]], 3, axis=2)
            assert np.ptp(pixels[name].astype(int), axis=2).max() == 0, name  # grey stays grey
        level = 20 if name == "one_bit.png" else 26  # black dots are far from grey
        assert psnr(pixels[name], expected) > level, name
    written = {path.stem for path in out.glob("0*/*.png")}
    assert written == {row["id"] for row in faces}


def test_rows_hold_what_pasting_needs(torture):
    """The table alone leads from the photograph to the face."""
    folder, out, *_, faces, _, _ = torture
    assert list(faces[0]) == list(build.FACE_COLUMNS)
    assert [row["id"] for row in faces] == sorted(row["id"] for row in faces)
    row = next(row for row in faces if row["photo"] == "exif/6.jpg")
    photo = read_photo(folder / row["photo"])
    assert (int(row["width"]), int(row["height"])) == photo.size == (184, 224)
    transform = build.transform_of(row)
    points = align.apply_transform(transform, build.landmarks_of(row))
    left, right, _ = align.eyes_and_mouth(points)
    expected = canonical_points(64, 0.7)
    assert np.abs(np.stack([left, right]) - expected[:2]).max() < 2
    corners = align.apply_transform(
        align.invert_transform(transform),
        np.array([[-0.5, -0.5], [-0.5, 63.5], [63.5, 63.5], [63.5, -0.5]]),
    )
    again = align.warp(photo, corners, 64)
    face = read_image(next(out.glob(f"0*/{row['id']}.png")))
    assert np.abs(again.astype(int) - face).max() <= 2
    x0, y0, x1, y1 = (float(row[key]) for key in ("x0", "y0", "x1", "y1"))
    assert 0 < x1 - x0 < 184 and x0 < build.landmarks_of(row)[30, 0] < x1 and y0 < y1
    assert (
        row["n_faces"] == "1"
        and float(row["score"]) > 0
        and row["split"] in ("train", "val", "test")
    )


def test_shards_do_not_change_the_result(torture, tmp_path, resources):
    """Another number of shards gives the same tables and bytes; a second run changes nothing."""
    _, out, dataset, *_ = torture
    run_stage(tmp_path, resources("dlib_68"), dataset.model_copy(update={"shards": 1}))
    for name in ("faces.csv", "quarantine.csv"):
        one, three = (build.read_table(folder / name) for folder in (tmp_path, out))
        for row in one + three:
            row.pop("shard", None)
        assert one == three
    for path in out.glob("0*/*.png"):
        assert (tmp_path / "0000" / path.name).read_bytes() == path.read_bytes()


def test_parsing_maps_of_the_stage(torture, tmp_path):
    _, out, dataset, *_, faces, _, _ = torture
    build.parse_faces(dataset, out / "faces.csv", tmp_path / "maps")
    assert {path.stem for path in (tmp_path / "maps").iterdir()} == {row["id"] for row in faces}
    with Image.open(tmp_path / "maps" / f"{faces[0]['id']}.png") as image:
        assert image.mode == "L" and image.size == (64, 64)
        labels = np.asarray(image)
    eyes = canonical_points(64, 0.7)[:2].round().astype(int)
    assert [parsing_maps.LABELS_10[labels[y, x]] for x, y in eyes] == ["l_eye", "r_eye"]


def test_one_broken_photograph_costs_no_other(portrait, tmp_path, resources, monkeypatch):
    for name in ("a", "b", "c"):
        (tmp_path / "in").mkdir(exist_ok=True)
        portrait.save(tmp_path / "in" / f"{name}.png")
    calls = []
    find_faces = detect.find_faces

    def fragile(image, *rest):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("detector\nbroke")
        return find_faces(image, *rest)

    monkeypatch.setattr(detect, "find_faces", fragile)
    dataset = Dataset(source="folder", path=str(tmp_path / "in"), shards=1, enlarge=2)
    dataset = dataset.model_copy(update={"crop_scale": 0.7})
    faces, quarantine, _ = run_stage(tmp_path, resources("dlib_68"), dataset)
    assert len(faces) == 2
    assert [row["reason"] for row in quarantine] == ["failed: RuntimeError: detector broke"]


def test_an_interrupted_shard_leaves_nothing(portrait, tmp_path, resources, monkeypatch):
    (tmp_path / "in").mkdir()
    portrait.save(tmp_path / "in" / "a.png")

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(detect, "find_faces", interrupt)
    dataset = Dataset(source="folder", path=str(tmp_path / "in"), shards=1)
    with pytest.raises(KeyboardInterrupt):
        run_stage(tmp_path / "out", resources("dlib_68"), dataset)
    assert list((tmp_path / "out").iterdir()) == []


def test_limits_quarantine_with_the_measured_value(portrait, hog):
    base = Dataset(source="folder", path="x", crop_scale=0.7, enlarge=2, size=64)

    def outcome(**update):
        (result,) = build.extract_faces(portrait, base.model_copy(update=update), hog)
        return result

    pixels, row = outcome(max_yaw=1.0)
    assert pixels.shape == (64, 64, 3)
    turned = outcome(max_yaw=1e-6)
    assert turned.reason.startswith("face turned aside") and turned.value == f"{row_yaw(row):.3f}"
    small = outcome(min_face=500)
    assert small.reason == "face smaller than 500 px" and 50 < float(small.value) < 184
    beyond = outcome(crop_scale=1.5, max_outside=0.2)
    assert beyond.reason.startswith("crop outside the photograph") and float(beyond.value) > 0.2


def row_yaw(row):
    return float(row["yaw"])


def test_all_faces_and_the_largest(hog, astronaut):
    wide = Image.new("RGB", (900, 420), (90, 90, 90))
    part = astronaut.crop((130, 30, 330, 230))
    wide.paste(part.resize((400, 400)), (250, 10))
    wide.paste(part, (680, 10))
    wide.paste(part, (10, 10))
    base = Dataset(source="folder", path="x", crop_scale=0.7, size=64)
    (largest,) = build.extract_faces(wide, base, hog)
    every = build.extract_faces(wide, base.model_copy(update={"faces": "all"}), hog)
    assert [row["n_faces"] for _, row in (largest, *every)] == [3, 3, 3, 3]
    assert largest[1]["x0"] == every[1][1]["x0"]
    lefts = [float(row["x0"]) for _, row in every]
    assert lefts == sorted(lefts)
    # a limit may reject some of them: their places in the list stay
    some = build.extract_faces(wide, base.model_copy(update={"faces": "all", "min_face": 120}), hog)
    assert [isinstance(item, build.Rejected) for item in some] == [True, False, True]


def test_all_faces_have_ids_of_their_own(astronaut, tmp_path, resources):
    (tmp_path / "in").mkdir()
    wide = Image.new("RGB", (420, 210), (90, 90, 90))
    part = astronaut.crop((130, 30, 330, 230))
    wide.paste(part, (0, 0))
    wide.paste(part, (210, 5))
    wide.save(tmp_path / "in" / "two.png")
    astronaut.save(tmp_path / "in" / "one.png")
    dataset = Dataset(
        source="folder", path=str(tmp_path / "in"), shards=1, faces="all", crop_scale=0.7
    )
    faces, _, summary = run_stage(tmp_path, resources("dlib_68"), dataset)
    stems = [sources.photo_id(Path(name)) for name in ("one.png", "two.png")]
    assert [row["id"] for row in faces] == [f"{stems[0]}_0", f"{stems[1]}_0", f"{stems[1]}_1"]
    assert summary == "3 faces of 2 photographs"


def test_aligned_photographs_are_only_resized(astronaut, landmarks, tmp_path, resources):
    folder = tmp_path / "in"
    folder.mkdir()
    square = align.crop_square(landmarks)
    whole = Image.fromarray(align.warp(astronaut, square, 256))
    whole.save(folder / "00003.png")
    astronaut.crop((0, 0, 300, 200)).save(folder / "oblong.png")
    Image.new("RGB", (128, 128), (200, 10, 10)).save(folder / "plain.png")
    write_part(tmp_path / "parts", 3, "skin", (0, 0, 256, 512))
    write_part(tmp_path / "parts", 3, "cloth", (0, 256, 512, 512))

    dataset = Dataset(source="folder", path=str(folder), shards=1, aligned=True, size=128)
    faces, quarantine, _ = run_stage(tmp_path / "a", resources("dlib_68"), dataset)
    assert [row["photo"] for row in faces] == ["00003.png"]
    reasons = {row["photo"]: (row["reason"], row["value"]) for row in quarantine}
    assert reasons == {
        "oblong.png": ("aligned photograph is not square", "300x200"),
        "plain.png": ("no face found", ""),  # parsing from landmarks needs some
    }
    face = read_image(tmp_path / "a" / "0000" / f"{faces[0]['id']}.png")
    expected = np.asarray(whole.resize((128, 128), Image.Resampling.LANCZOS))
    assert np.array_equal(face, expected)
    points = align.apply_transform(build.transform_of(faces[0]), build.landmarks_of(faces[0]))
    eyes = np.stack(align.eyes_and_mouth(points)[:2])
    assert np.abs(eyes - canonical_points(128)[:2]).max() < 4

    # without landmarks no detector is needed, and parts come from their files
    labels = Labels(kind="folder", path=str(tmp_path / "parts"))
    dataset = dataset.model_copy(update={"labels": labels})
    faces, _, _ = run_stage(tmp_path / "b", tmp_path / "no_assets", dataset)
    assert sorted(row["photo"] for row in faces) == ["00003.png", "plain.png"]
    with pytest.raises(ValueError, match="named by their number"):
        build.parse_faces(dataset, tmp_path / "b/faces.csv", tmp_path / "m")
    assert not (tmp_path / "m").exists()
    (folder / "plain.png").unlink()
    run_stage(tmp_path / "b", tmp_path / "no_assets", dataset)
    build.parse_faces(dataset, tmp_path / "b/faces.csv", tmp_path / "m")
    (path,) = (tmp_path / "m").iterdir()
    labels = np.asarray(Image.open(path))
    assert labels.shape == (128, 128)
    assert (labels[:64, :64] == 1).all() and (labels[:64, 64:] == 0).all()
    assert (labels[64:] == 18).all()


def test_labels_are_cut_like_the_photograph(tmp_path):
    """A 1024 px photograph with 512 px parts, cut and turned upside down."""
    write_part(tmp_path, 5, "hair", (256, 256, 384, 512))
    transform = align.square_transform(box_square(512, 512, 512)[[2, 3, 0, 1]], 64)
    row = {
        "id": "x", "photo": "5.jpg", "size": "64", "width": "1024", "height": "1024",
        "transform": " ".join(map(str, transform.ravel())),
    }  # fmt: skip
    with (tmp_path / "faces.csv").open("w") as file:
        file.write(",".join(row) + "\n" + ",".join(row.values()) + "\n")
    dataset = Dataset(
        source="folder", path="x", labels=Labels(kind="folder", path=str(tmp_path))
    )  # fmt: skip
    build.parse_faces(dataset, tmp_path / "faces.csv", tmp_path / "m")
    labels = np.asarray(Image.open(tmp_path / "m/x.png"))
    assert (labels[:, 32:] == 13).all() and (labels[:, :32] == 0).all()
    model = dataset.model_copy(update={"labels": Labels(kind="model", model="parser")})
    with pytest.raises(ValueError, match="trained parser"):
        build.parse_faces(model, tmp_path / "faces.csv", tmp_path / "m")


def test_generated_faces_end_to_end(tmp_path, resources):
    dataset = Dataset(
        source="digiface", samples=48, shards=2, crop_scale=0.7, enlarge=4, max_yaw=0.2
    )
    assets = resources("digiface_generator", "dlib_68")
    faces, quarantine, summary = run_stage(tmp_path, assets, dataset)
    assert len(faces) + len(quarantine) == 48
    assert 6 <= len(faces) <= 24  # about a quarter is kept
    assert summary.startswith(f"{len(faces)} faces of 48 photographs")
    places = []
    for row in faces:
        points = align.apply_transform(build.transform_of(row), build.landmarks_of(row))
        places.append(np.stack(align.eyes_and_mouth(points)))
        assert abs(float(row["yaw"])) <= 0.2 and row["photo_sha256"] == ""
    offset = np.mean(places, axis=0) - canonical_points(64, 0.7)
    assert np.abs(offset).max() < 0.8
    # more samples leave the first ones as they are
    more = dataset.model_copy(update={"samples": 56, "shards": 1})
    again, _, _ = run_stage(tmp_path / "more", assets, more)
    for row in faces + again:
        row.pop("shard")
    assert again[: len(faces)] == faces


def test_orl_faces_are_found(tmp_path, resources):
    dataset = Dataset(source="orl", shards=10, crop_scale=0.7, enlarge=4, max_outside=0.5)
    assets = resources("orl", "dlib_68")
    build.build_shard("orl", dataset, 3, assets, 0, tmp_path / "f", tmp_path / "a", tmp_path / "q")
    faces = build.read_table(tmp_path / "a")
    assert {row["person"] for row in faces} == {"s13", "s14", "s15", "s16"}
    assert len(faces) >= 38  # 393 of all 400
    assert len(faces) + len(build.read_table(tmp_path / "q")) == 40


def test_splits_keep_people_together_and_never_move_them():
    split = Split(train=0.6, val=0.1, test=0.3)
    people = [f"p{i}" for i in range(4000)]
    parts = [build.split_of("orl", person, split, 0) for person in people]
    shares = [parts.count(name) / len(parts) for name in ("train", "val", "test")]
    np.testing.assert_allclose(shares, [0.6, 0.1, 0.3], atol=0.03)
    assert parts != [build.split_of("orl", person, split, 1) for person in people]
    assert parts != [build.split_of("other", person, split, 0) for person in people]
    # a larger training share only moves people into it
    wider = Split(train=0.8, val=0.0, test=0.2)
    for person, part in zip(people, parts):
        if part == "train":
            assert build.split_of("orl", person, wider, 0) == "train"
    for only in ("train", "val", "test"):
        whole = Split(**{name: float(name == only) for name in ("train", "val", "test")})
        assert {build.split_of("orl", person, whole, 0) for person in people} == {only}


def copies_of(image: Image.Image, folder: Path, name: str) -> list[Path]:
    """One picture under several names: other formats, metadata, orientation."""
    paths = [
        folder / f"{name}{end}" for end in (" (1).png", ".bmp", ".tif", ".webp", "-turned.png")
    ]
    image.save(folder / f"{name}.png")
    image.save(paths[0], dpi=(300, 300))
    image.save(paths[1])
    image.save(paths[2], compression="tiff_lzw")
    image.save(paths[3], lossless=True)
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    image.rotate(180).save(paths[4], exif=exif)
    return [folder / f"{name}.png", *paths]


def test_copies_of_one_photograph_lie_on_one_side_of_a_split(tmp_path):
    rng, folder = np.random.default_rng(0), tmp_path / "photos"
    folder.mkdir()
    for number in range(16):
        image = Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8))
        copies_of(image, folder, f"IMG_{number:04d}")
    dataset = Dataset(
        source="folder", path=str(folder), shards=3, aligned=True, size=16,
        labels=Labels(kind="model", model="parser"), split=Split(train=0.4, val=0.2, test=0.4),
    )  # fmt: skip
    faces, _, summary = run_stage(tmp_path, tmp_path, dataset)
    assert len(faces) == 16 * 6 and summary.endswith("; 80 faces are copies of others")
    parts: dict[str, set[str]] = {}
    for row in faces:
        parts.setdefault(row["photo"][:8], set()).add(row["split"])
    assert len(parts) == 16 and all(len(found) == 1 for found in parts.values())
    assert {row["split"] for row in faces} == {"train", "val", "test"}
    # each is its own person still, and the shares are those of the first of them
    assert len({row["person"] for row in faces}) == len(faces)


def test_people_who_share_a_photograph_lie_on_one_side_of_a_split():
    def kin(*pairs):
        return people.first_of_kin([{"person": p, "face_sha256": face} for p, face in pairs])

    assert kin(("b", "1"), ("a", "2")) == {"a": "a", "b": "b"}
    assert kin(("c", "1"), ("b", "1"), ("b", "2"), ("a", "2"), ("d", "3")) == {
        "a": "a", "b": "a", "c": "a", "d": "d",
    }  # fmt: skip
    assert kin(("a", ""), ("b", "")) == {"a": "a", "b": "b"}  # nothing is known of them
    chain = [(f"{n:03d}", str(n + step)) for n in range(300) for step in (0, 1)]
    for order in (chain, chain[::-1]):
        assert set(kin(*order).values()) == {"000"}


def test_a_person_table_that_contradicts_itself_is_refused(tmp_path):
    (tmp_path / "a.png").touch()
    table = tmp_path / "people.csv"
    dataset = Dataset(source="folder", path=str(tmp_path), people=str(table))
    table.write_text("photo,person\na.png,Anna\n./a.png,Anna\n")
    assert people.finder(dataset)("a.png", "own") == "Anna"
    table.write_text("photo,person\na.png,Anna\na.png,Bea\n")
    with pytest.raises(ValueError, match=r"says of a\.png: Anna and Bea"):
        people.finder(dataset)
    table.write_text("photo,person\na.png," + "x" * 200_000 + "\n")
    with pytest.raises(ValueError, match="cannot read"):
        people.finder(dataset)


def test_joining_depends_on_people_only(torture, tmp_path):
    """With or without a shard, the others' rows are the same."""
    _, out, dataset, *_, faces, _, _ = torture
    csvs, quarantines = ([out / f"{k:04d}{end}.csv" for k in (2, 0)] for end in ("", ".q"))
    build.join_shards("toy", dataset, 0, csvs, quarantines, tmp_path / "f", tmp_path / "q")
    some = build.read_table(tmp_path / "f")
    assert 0 < len(some) < len(faces)
    assert all(row in faces for row in some)
    assert [row["id"] for row in some] == sorted(row["id"] for row in some)


def test_a_corrected_table_of_people_needs_the_join_alone(tmp_path):
    """Aligned photographs, so that no detector is needed; two people, then three."""
    for number in range(6):
        folder = tmp_path / "photos"
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (32, 32), (40 * number,) * 3).save(folder / f"{number}.png")
    (folder / "bad.png").write_bytes(b"no image")
    table = tmp_path / "people.csv"
    labels = Labels(kind="model", model="parser")
    dataset = Dataset(
        source="folder", path=str(folder), people=str(table), shards=2, aligned=True, size=16,
        labels=labels, split=Split(train=0.5, val=0, test=0.5),
    )  # fmt: skip

    def write(people_of):
        rows = [f"{name},{person}" for name, person in people_of.items()]
        table.write_text("\n".join(["photo,person", *rows, ""]))

    def joined():
        names = [(tmp_path / f"{k:04d}.csv", tmp_path / f"{k:04d}.q.csv") for k in (0, 1)]
        tables = [list(column) for column in zip(*names)]
        out = tmp_path / "faces.csv", tmp_path / "quarantine.csv"
        build.join_shards("toy", dataset, 0, *tables, *out)
        rows = build.read_table(out[0]) + build.read_table(out[1])
        for row in build.read_table(out[0]):
            assert row["split"] == build.split_of("toy", row["person"], dataset.split, 0)
        return {row["photo"]: row["person"] for row in rows}

    people_of = {f"{n}.png": "Anna" if n < 3 else "Bea" for n in range(5)} | {"bad.png": "Cleo"}
    write(people_of)
    own = sources.photo_id(Path("5.png"))
    faces, _, _ = run_stage(tmp_path, tmp_path, dataset)
    assert len(faces) == 6
    shards = [(tmp_path / f"{k:04d}.csv").read_bytes() for k in (0, 1)]
    assert joined() == {**people_of, "5.png": own}

    write(people_of | {"1.png": "Dora"})
    assert joined() == {**people_of, "1.png": "Dora", "5.png": own}
    # a shard does not depend on the table: aligning again would give the same
    run_stage(tmp_path, tmp_path, dataset)
    assert [(tmp_path / f"{k:04d}.csv").read_bytes() for k in (0, 1)] == shards
    write({"6.png": "Anna"})
    with pytest.raises(ValueError, match=r"people: 1 of .* are not in .*6\.png"):
        joined()
