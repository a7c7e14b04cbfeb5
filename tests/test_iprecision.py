"""iPrecision and iRecall: the specification's toy sets, brute force, chance; rows of scores."""

import csv

import numpy as np
import pytest
import torch

from frcore.cli import main
from frcore.config import Protocol
from frcore.frozen import identity
from frcore.io.images import to_float, to_uint8, write_image
from frcore.metrics import identity as semantics
from frcore.metrics import nets, score, stage
from frcore.metrics.identity import hits, iprecision, irecall, neighbour_radii
from frcore.registry.metrics import METRICS

REAL = np.array([[0.0], [1.0], [3.0], [7.0]])
RESTORED = np.array([[0.4], [1.6], [3.0], [2.0]])


def gaussian(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


# ---- known answers ----


def test_toy_sets_by_hand():
    """For k = 1 the balls of the reals are 1, 1, 2, 4; the pairs lie 0.4, 0.6, 0 and 5 apart."""
    assert neighbour_radii(REAL, 2).tolist() == [[1, 3], [1, 2], [2, 3], [4, 6]]
    assert neighbour_radii(RESTORED, 1)[:, 0] == pytest.approx([1.2, 0.4, 1.0, 0.4])
    assert (iprecision(RESTORED, REAL, 1), irecall(RESTORED, REAL, 1)) == (0.75, 0.5)
    assert (iprecision(RESTORED, REAL, 2), irecall(RESTORED, REAL, 2)) == (1.0, 0.75)


def test_labels_let_another_face_of_the_person_count():
    """The last restored, 2, is 5 from its own real face, and at the edge of the second's ball."""
    assert iprecision(RESTORED, REAL, 1, labels=["a", "b", "c", "b"]) == 1
    assert iprecision(RESTORED, REAL, 1, labels=["a", "b", "c", "a"]) == 0.75
    # the second real face, 1, is in the ball of the first restored one alone
    assert irecall(RESTORED, REAL, 1, labels=["a", "a", "b", "c"]) == 0.75
    found = hits(RESTORED, REAL, [1, 1, 2, 4], list("abcd"), list("bcda"))
    assert found.tolist() == [False, False, False, True]
    assert not hits(RESTORED, REAL, [9] * 4, list("abcd"), list("efgh")).any()


def test_nearest_reading_wants_the_identity_of_the_nearest_ball():
    real, restored = np.array([[0.0], [3.0], [5.0]]), np.array([[2.0], [3.0], [5.0]])
    # 2 lies in the balls of 0 (3), its own, and of 3 (2), the nearer
    assert iprecision(restored, real, 1) == 1
    assert iprecision(restored, real, 1, nearest=True) == pytest.approx(2 / 3)
    assert iprecision(restored, real, 1, labels=list("aab"), nearest=True) == 1
    # no ball at all is no hit, even where the nearest centre has the label
    assert iprecision(REAL[::-1] + 50, REAL, 1, labels=list("aaaa"), nearest=True) == 0


@pytest.mark.parametrize("k", [1, 4, 10])
def test_equal_sets_give_1_and_the_face_itself_is_no_neighbour(k):
    x = gaussian(0, 60, 128)
    assert iprecision(x, x, k) == irecall(x, x, k) == iprecision(x, x, k, nearest=True) == 1
    assert (neighbour_radii(x, k) > 0).all()
    slow = np.sort(np.linalg.norm(x[:, None] - x[None], axis=2), axis=1)
    np.testing.assert_allclose(neighbour_radii(x, k), slow[:, 1 : k + 1], rtol=1e-12)


def test_duplicates_have_radius_zero_exactly():
    x = gaussian(1, 30, 128)
    x[7:10] = x[3]  # four equal
    radii = neighbour_radii(x, 4)
    assert (radii[[3, 7, 8, 9], :3] == 0).all() and (radii[:, 3] > 0).all()
    assert iprecision(x, x, 1) == 1
    nudged = x.copy()
    nudged[3, 0] += 1e-9  # lost where the squares of lengths are subtracted
    assert iprecision(nudged, x, 1) == pytest.approx(29 / 30)


@pytest.mark.parametrize("k", [1, 4])
def test_permuted_truth(k):
    """Means over all shifts of the pairs: k / (N - 1) without fixed points, (k + 1) / N with them.

    Of all other faces exactly k are in a ball, the last one on its edge: no tie may be lost.
    """
    x = gaussian(2, 50, 128)
    for measure in (iprecision, irecall):
        values = [measure(np.roll(x, shift, 0), x, k) for shift in range(50)]
        assert np.mean(values[1:]) == pytest.approx(k / 49, abs=1e-12)
        assert np.mean(values) == pytest.approx((k + 1) / 50, abs=1e-12)


@pytest.mark.parametrize(("k", "n"), [(1, 60), (4, 100), (10, 150)])
def test_chance_is_k_of_n(k, n):
    values, people = [], np.arange(n) // 5
    for seed in range(40):
        restored, real = gaussian(seed, 2, n, 16)
        both = [(f(restored, real, k), f(restored, real, k, people)) for f in (iprecision, irecall)]
        values.append(both)
    error = np.sqrt(k / n / (40 * n))  # binomial
    for by_pair, by_person in np.mean(values, 0):
        assert by_pair == pytest.approx(k / n, abs=4 * error)
        assert by_pair < by_person < 5 * k / n + 10 * error  # at most that of five balls apart


def test_collapse_and_noise_of_the_specification():
    """16 dimensions, N 1000, k 4: what was measured for the specification, by another program."""
    real = gaussian(3, 1000, 16)
    middle = np.repeat(real.mean(0, keepdims=True), 1000, 0)
    assert iprecision(middle, real) == pytest.approx(0.04, abs=0.02)  # a hub
    assert irecall(middle, real) == 0
    slight, strong = (real + noise * gaussian(4, 1000, 16) for noise in (0.5, 1.0))
    assert iprecision(slight, real) == pytest.approx(0.997, abs=0.005)
    assert irecall(slight, real) == pytest.approx(1.0, abs=0.002)
    assert iprecision(strong, real) == pytest.approx(0.24, abs=0.05)
    assert irecall(strong, real) == pytest.approx(0.90, abs=0.03)


# ---- properties ----


def slow_iprecision(restored, real, k, labels, nearest=False):
    """Straight from the paper, in NumPy alone: whole matrices, and the face itself left out."""
    labels = np.asarray(labels)
    within = np.linalg.norm(real[:, None] - real[None], axis=2)
    radii = np.sort(within, axis=1)[:, k]  # the first is the face itself
    across = np.linalg.norm(restored[:, None] - real[None], axis=2)
    inside = across <= radii
    if nearest:
        inside &= across == np.where(inside, across, np.inf).min(1, keepdims=True)
    return (inside & (labels[:, None] == labels[None])).any(1).mean()


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("nearest", [False, True])
def test_equals_brute_force(k, nearest):
    for seed in range(3):
        real = gaussian(seed, 24, 5)
        restored = real + gaussian(seed + 10, 24, 5)
        labels = np.random.default_rng(seed).integers(8, size=24)
        some = iprecision(restored, real, k, labels, nearest)
        assert some == slow_iprecision(restored, real, k, labels, nearest)
        back = irecall(restored, real, k, labels, nearest)
        assert back == slow_iprecision(real, restored, k, labels, nearest)
        pairs = iprecision(restored, real, k, nearest=nearest)
        assert pairs == slow_iprecision(restored, real, k, range(24), nearest) <= some
        assert pairs == iprecision(restored, real, k, [f"face {i}" for i in range(24)], nearest)


def test_grows_with_k_and_depends_on_the_order_of_arguments():
    real = gaussian(5, 80, 8)
    restored = real + gaussian(6, 80, 8)
    for measure in (iprecision, irecall):
        values = [measure(restored, real, k) for k in (1, 2, 4, 10, 40, 79)]
        assert values == sorted(values) and values[0] < values[-1]
    assert iprecision(restored, real, 4) == irecall(real, restored, 4)
    assert iprecision(restored, real, 4) != iprecision(real, restored, 4)
    assert iprecision(restored, real, 4, nearest=True) < iprecision(restored, real, 4)
    order = np.random.default_rng(7).permutation(80)
    assert iprecision(restored[order], real[order], 4) == iprecision(restored, real, 4)
    assert iprecision(restored[order], real, 4) < 0.5 * iprecision(restored, real, 4)


@pytest.mark.parametrize("nearest", [False, True])
def test_blocks_give_the_same_and_bound_the_memory(monkeypatch, nearest):
    real = gaussian(8, 100, 16)
    restored = real + gaussian(9, 100, 16)
    labels = np.arange(100) // 50  # two people: one's faces need several blocks
    measures = (neighbour_radii(real, 10), iprecision(restored, real, 4, labels, nearest))
    sizes = []

    def spy(x, y):
        sizes.append(len(x) * len(y))
        return cdist(x, y)

    cdist = semantics.cdist
    monkeypatch.setattr(semantics, "cdist", spy)
    monkeypatch.setattr(semantics, "BLOCK", 7)  # the last block is of another size
    np.testing.assert_array_equal(neighbour_radii(real, 10), measures[0])
    assert iprecision(restored, real, 4, labels, nearest) == measures[1] < 1
    assert max(sizes) == 7 * 100  # never 100 x 100


def test_errors():
    x = gaussian(0, 5, 3)
    with pytest.raises(ValueError, match="k = 5 needs k >= 1 and more than k vectors, got 5"):
        iprecision(x, x, 5)
    with pytest.raises(ValueError, match="k = 0"):
        neighbour_radii(x, 0)
    with pytest.raises(ValueError, match="do not pair: 4 and 5"):
        iprecision(x[:4], x, 1)
    with pytest.raises(ValueError, match="do not pair"):
        irecall(x[:4], x, 1)
    with pytest.raises(ValueError, match="differ in length: 2 and 3"):
        iprecision(x[:, :2], x, 1)
    broken = x.copy()
    broken[3, 1] = np.nan
    for measure in (iprecision, irecall):
        for both in ((x, broken), (broken, x)):
            with pytest.raises(ValueError, match="1 of 5 have values that are not finite"):
                measure(*both, 1)
    with pytest.raises(ValueError, match="4 labels for 5 points; 4 labels and 5 radii for 5"):
        iprecision(x, x, 1, labels=list("abcd"))
    with pytest.raises(ValueError, match=r"expected N x D, got \(5,\)"):
        neighbour_radii(x[:, 0], 1)


# ---- rows of scores ----

NAMES = [
    f"i{measure}_{whose}dlib_k{k}"
    for measure in ("precision", "recall")
    for whose in ("", "person_")
    for k in (1, 4, 10)
]


def asked(name) -> tuple[str, bool, int]:
    """What a name says: the measure, whether identity is the person's, and k."""
    measure, k = name[1:].split("_")[0], int(name.rsplit("k", 1)[1])
    return measure, "person" in name, k


PAIR, PERSON = NAMES[0], "iprecision_person_dlib_k1"


class Fake(torch.nn.Module):
    """Means of a 4 x 4 grid as a descriptor, and a number that tells the frame."""

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def descriptors(self, images, crop_scale, crop_shift):
        x = 100 * torch.nn.functional.adaptive_avg_pool2d(images.mean(1), 4).flatten(1)
        return torch.cat([x, torch.full((len(x), 1), 100 * (crop_scale + crop_shift))], 1)


NETS = {"dlib_resnet": Fake()}


def coarse(n, noise=0.0, seed=0, size=32):
    """Faces of a 4 x 4 grid of colours, their grid blurred by noise: 8-bit values."""
    generator = torch.Generator().manual_seed(seed)
    grid = torch.rand(n, 3, 4, 4, generator=generator)
    grid = grid + noise * torch.randn(grid.shape, generator=generator)
    images = grid.repeat_interleave(size // 4, 2).repeat_interleave(size // 4, 3)
    return to_float(to_uint8(images.clamp(0, 1)))


def by_name(rows):
    return {row["metric"]: row for row in rows}


def test_table_and_code_name_the_same_metrics():
    rows = {
        name: row
        for name, row in METRICS.items()
        if row.kind == "set" and row.assets == ("dlib_resnet",)
    }
    assert set(rows) == set(NAMES) and len({row.title for row in rows.values()}) == 12
    for name, row in rows.items():
        measure, by_person, k = asked(name)
        assert row.title.startswith(f"i{measure.capitalize()} k={k} ")
        assert ("person" in row.title, "pair" in row.title) == (by_person, not by_person)
        assert row.higher_is_better and row.needs_truth and row.pairs
        assert row.place.endswith(f":i{measure}_of_set")
        assert dict(row.arguments) == {"k": k, "person": by_person}


def test_rows_are_the_measures_of_descriptors(tmp_path):
    truth, restored = coarse(24), coarse(24, noise=0.5)
    ids = [f"face{i}" for i in range(24)]
    people = [f"person{i // 3}" for i in range(24)]
    known = score.truth_features(truth, ids, NAMES, NETS, people=people)
    assert known.features["dlib_resnet"][0, -1] == pytest.approx(80) and not known.statistics
    known.save(tmp_path / "truth.npz")
    read = score.TruthFeatures.load(tmp_path / "truth.npz")
    assert read.people == tuple(people)
    order = np.random.default_rng(0).permutation(24)  # paired by id, not by place
    found = score.set_features([restored[order][:9], restored[order][9:]], NAMES, NETS, batch=2)
    rows = score.score_set([ids[i] for i in order], found, read, NAMES, seed=3)
    assert [row["metric"] for row in rows] == NAMES
    net = NETS["dlib_resnet"]
    e, f = (net.descriptors(images, 0.7, 0.1).numpy() for images in (restored, truth))
    for row in rows:
        measure, by_person, k = asked(row["metric"])
        function = {"precision": iprecision, "recall": irecall}[measure]
        assert row["value"] == function(e, f, k, people if by_person else None)
        assert row["n"] == 24 and 0 <= row["ci_low"] <= row["value"] <= row["ci_high"] <= 1
        chance = {1: "chance 0.0417", 4: "chance 0.167", 10: "chance 0.417"}[k]
        most = {1: "0.125", 4: "0.5", 10: "1"}[k]  # three faces a person
        assert row["note"] == (f"chance at most {most}; 8 people" if by_person else chance)
    rows = by_name(rows)
    assert 0 < rows[PAIR]["value"] < rows[PERSON]["value"]
    other = score.set_features(truth[:1], NAMES, NETS, crop_scale=1.0, crop_shift=0.3)
    assert other["dlib_resnet"][0, -1] == pytest.approx(130)  # the frame reaches the net


def test_interval_is_that_of_a_share():
    """Redrawn pairs, radii as they are: the width is the binomial one."""
    real = gaussian(11, 400, 16)
    ids = tuple(map(str, range(400)))
    known = score.TruthFeatures(ids, {"dlib_resnet": real})
    found = {"dlib_resnet": real + gaussian(12, 400, 16)}
    [row] = score.score_set(ids, found, known, ["iprecision_dlib_k4"], n_draws=2000)
    error = np.sqrt(row["value"] * (1 - row["value"]) / 400)
    assert (row["ci_high"] - row["ci_low"]) / 2 == pytest.approx(1.96 * error, rel=0.1)


def test_a_face_that_was_not_restored_is_missed():
    truth = coarse(12)
    ids, people = list("abcdefghijkl"), list("aabbccddeeff")
    known = score.truth_features(truth, ids, NAMES, NETS, people=people)
    found = score.set_features(truth[:9], NAMES, NETS)
    rows = by_name(score.score_set(ids[:9], found, known, NAMES))
    for name in ("irecall_dlib_k10", "irecall_person_dlib_k10"):  # no balls among nine
        row = rows.pop(name)
        assert (row["value"], row["note"]) == (None, "9 images: k = 10 needs more than 10")
    # one of e's two faces is there: it does not stand in for the other
    assert {(row["value"], row["n"]) for row in rows.values()} == {(0.75, 12)}
    missed = "3 of 12 not restored, counted as missed"
    assert rows["iprecision_dlib_k1"]["note"] == f"chance 0.0833; {missed}"
    assert rows["irecall_person_dlib_k4"]["note"] == f"chance at most 0.667; 6 people; {missed}"
    nobody = score.score_set([], {}, known, [PAIR])[0]
    assert (nobody["value"], nobody["note"]) == (None, "no face was restored")


def test_radii_of_zero_are_told():
    truth = coarse(8)
    known = score.truth_features(truth, list("abcdefgh"), NAMES, NETS)
    same = score.set_features(truth[:1].repeat(8, 1, 1, 1), NAMES, NETS)
    rows = by_name(score.score_set(list("abcdefgh"), same, known, ["irecall_dlib_k4", PAIR]))
    assert rows["irecall_dlib_k4"]["value"] == 1 / 8  # the face itself
    assert rows["irecall_dlib_k4"]["note"] == "chance 0.5; 8 of 8 radii are 0"
    assert "radii" not in rows[PAIR]["note"]


def test_what_cannot_be_had_has_a_reason():
    truth, ids = coarse(6), list("abcdef")

    def note(metric, ids=ids, images=truth, truth_of=None, nets=NETS, **about):
        known = truth_of or score.truth_features(truth, list("abcdef"), NAMES, NETS, **about)
        [row] = score.score_set(ids, score.set_features(images, NAMES, nets), known, [metric])
        assert (row["value"], row["n"], row["ci_low"]) == (None, 0, None)
        return row["note"]

    assert note(PERSON) == "no person labels"
    assert note(PERSON, people=ids) == "every person has one face: see the metric by pair"
    assert note("irecall_person_dlib_k10") == "6 images: k = 10 needs more than 10"
    assert note(PAIR, ids=list("abcdex")) == "1 of 6 images are not among the truth"
    absent = "no weights: dlib_resnet, or the images are no square frames of 16 px or more"
    assert note(PAIR, nets={}) == note(PAIR, images=truth[..., :24]) == absent
    assert note(PAIR, images=coarse(6, size=12)) == absent
    assert note(PAIR, truth_of=score.TruthFeatures(ids)) == "no truth features of dlib_resnet"
    with pytest.raises(ValueError, match="2 people for 6 ids"):
        score.truth_features(truth, ids, NAMES, NETS, people=["a", "b"])
    with pytest.raises(ValueError, match="look at a fixed window"):
        Protocol(metrics=(PAIR,), crop=4)
    broken = {"dlib_resnet": np.full((6, 17), np.nan)}
    with pytest.raises(ValueError, match="not finite"):
        score.score_set(ids, broken, score.truth_features(truth, ids, NAMES, NETS), [PAIR])


def written(folder, images, ids):
    folder.mkdir(exist_ok=True)
    for name, pixels in zip(ids, to_uint8(images)):
        write_image(folder / f"{name}.png", pixels)
    return [(name, folder / f"{name}.png") for name in ids]


def table(path):
    with path.open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


def test_through_the_metrics_stage(tmp_path, monkeypatch):
    """From folders and a table of people to the file of set scores."""
    monkeypatch.setattr(nets, "dlib_resnet", lambda path, device: Fake())
    weights = tmp_path / "weights"
    weights.touch()
    ids = [f"f{i:02d}" for i in range(12)]
    people = {name: f"p{i % 4}" for i, name in enumerate(ids)} | {"train face": "q"}
    truth = written(tmp_path / "truth", coarse(12), ids)
    restored = coarse(12, noise=0.2)
    written(tmp_path / "restored", restored, ids[:11])
    protocol = Protocol(metrics=[PAIR, PERSON], size=32, bootstrap=50)
    parts = {"dlib_resnet": weights}
    npz = tmp_path / "truth.npz"
    stage.write_truth(truth, [], protocol, parts, npz, 1.0, 0.2, people)
    assert score.TruthFeatures.load(npz).features["dlib_resnet"][0, -1] == pytest.approx(120)
    status = [{"id": name, "status": "restored", "reason": ""} for name in ids[:11]]
    status.append({"id": ids[11], "status": "failed", "reason": "no face"})
    outs = tmp_path / "images.csv", tmp_path / "sets.csv"
    one = stage.RestoredSet(status, tmp_path / "restored", *outs, 0)
    stage.write_scores([one], dict(truth), npz, protocol, parts, 1.0, 0.2)
    pair, person = table(outs[1])
    net = Fake()
    e, f = (net.descriptors(x, 1.0, 0.2).numpy() for x in (restored[:11], coarse(12)))
    labels = [people[name] for name in ids]
    radii = neighbour_radii(f, 1)[:, 0]
    wanted = hits(e, f, radii, ids[:11], ids).sum(), hits(e, f, radii, labels[:11], labels).sum()
    assert (float(pair["value"]), float(person["value"])) == pytest.approx(np.array(wanted) / 12)
    assert pair["note"].endswith("1 of 12 not restored, counted as missed")
    assert person["note"].startswith("chance at most 0.25; 4 people; ")


def test_evaluate_two_folders(tmp_path, resources, monkeypatch):
    root, frames = resources("dlib_resnet"), set()

    def spy(self, images, *frame):
        frames.add(frame)
        return descriptors(self, images, *frame)

    descriptors = identity.Identity.descriptors
    monkeypatch.setattr(identity.Identity, "descriptors", spy)
    written(tmp_path / "truth", coarse(6, size=64), "abcdef")
    written(tmp_path / "restored", coarse(6, size=64), "abcdef")
    names = [PAIR, "irecall_dlib_k4", "iprecision_dlib_k10", PERSON]
    command = ["evaluate", "--restored", tmp_path / "restored", "--truth", tmp_path / "truth"]
    command += ["--out", tmp_path / "e.csv", "--resources", root, "--metrics", ",".join(names)]
    assert main.main(list(map(str, command))) == 0
    crop = "crop_scale 1, crop_shift 0.1"
    rows = table(tmp_path / "e.csv")
    found = [(row["value"].removesuffix(".0"), row["n"], row["note"]) for row in rows]
    assert found == [
        ("1", "6", f"chance 0.167; {crop}"),
        ("1", "6", f"chance 0.667; {crop}"),
        ("", "0", f"6 images: k = 10 needs more than 10; {crop}"),
        ("", "0", f"no person labels; {crop}"),
    ]
    assert frames == {(1.0, 0.1)}
    # another size of frame in the same folders: no shape is tried that the net cannot read
    written(tmp_path / "truth", coarse(1, size=64)[..., :48], "g")
    written(tmp_path / "restored", coarse(1, size=64)[..., :48], "g")
    assert main.main(list(map(str, command))) == 0
    assert "no square frames" in table(tmp_path / "e.csv")[0]["note"]


def test_evaluate_one_pair_has_reasons(tmp_path, resources):
    """Too few for any metric of a set, which does not stop those of images."""
    root = resources("dlib_resnet", "mobilenet_v2")
    for side in ("restored", "truth"):
        written(tmp_path / side, coarse(1, size=64), "a")
    command = ["evaluate", "--restored", tmp_path / "restored", "--truth", tmp_path / "truth"]
    command += ["--out", tmp_path / "e.csv", "--resources", root]
    command += ["--metrics", f"ssim_rgb,fid_mobilenetv2,{PAIR}"]
    assert main.main(list(map(str, command))) == 0
    ssim, fid, pair = table(tmp_path / "e.csv")
    assert float(ssim["value"]) == 1
    assert (fid["value"], fid["note"]) == ("", "a set metric needs 2 images or more, got 1")
    assert pair["value"] == "" and pair["note"].startswith("1 images: k = 1 needs more than 1")


def test_real_faces_lose_their_people_with_blur(resources):
    """The specification's check of the metric: the truth gives 1, a blurred input far less."""
    from PIL import Image
    from scipy.ndimage import gaussian_filter

    root = resources("dlib_resnet", "orl")
    net = identity.load(root / "dlib_resnet/dlib_face_recognition_resnet_model_v1.dat")
    paths = {(path.parent.name, path.stem): path for path in (root / "orl").rglob("*.pgm")}
    faces, people = [], []
    for person in range(1, 21):
        for number in "15":
            with Image.open(paths[f"s{person}", number]) as image:
                square = image.convert("RGB").crop((0, 12, 92, 104)).resize((64, 64))
            faces.append(np.asarray(square))
            people.append(f"s{person}")
    truth = to_float(np.stack(faces))
    blurred = [torch.from_numpy(gaussian_filter(truth, (0, 0, s, s))) for s in (1.0, 3.0)]
    names = [PAIR, PERSON, "irecall_dlib_k4"]
    nets, ids = {"dlib_resnet": net}, [f"{i}" for i in range(40)]
    known = score.truth_features(truth, ids, names, nets, people=people)
    assert known.features["dlib_resnet"].shape == (40, 128)
    clear, slight, strong = (
        by_name(score.score_set(ids, score.set_features(x, names, nets), known, names))
        for x in (truth, *blurred)
    )
    for name in names:
        assert clear[name]["value"] == 1
        assert slight[name]["value"] > strong[name]["value"] + 0.2
