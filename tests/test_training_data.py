"""What a batch is made of: data sets in equal parts, mirrored faces, varied truth, identity."""

import numpy as np
import pytest
import torch
from PIL import Image

from frcore.degrade.apply import degrade_batch
from frcore.degrade.draw import draw
from frcore.degrade.recipes import Recipe
from frcore.faces.parsing_maps import LABELS_10, LABELS_19, mirror_table
from frcore.nets.losses import identity_of
from frcore.registry import METHODS
from frcore.seeds import numpy_generator
from frcore.train.data import Sample, TrainingFaces

CPU = torch.device("cpu")


@pytest.fixture
def samples(tmp_path):
    """53 faces of 16 px, each of one grey level, dark on the left; the map is 4 left, 5 right."""
    made = []
    for k in range(53):
        pixels = np.full((16, 16, 3), 2 * k + 100, np.uint8)
        pixels[:, :8] -= 50
        labels = np.full((16, 16), 4, np.uint8)
        labels[:, 8:] = 5
        paths = tmp_path / f"{k}.png", tmp_path / f"{k}_labels.png"
        Image.fromarray(pixels).save(paths[0])
        Image.fromarray(labels).save(paths[1])
        made.append(Sample(str(k), *paths))
    return made


def faces_in(batch) -> list[int]:
    """Which samples a batch holds."""
    return [int(round(float(face.max()) * 255) - 100) // 2 for face in batch["truth"]]


def test_sets_have_equal_parts_of_every_batch(samples):
    faces = TrainingFaces(samples, 1, [], sets=(3, 50))
    seen = [faces_in(faces.batch(p, 10, CPU)) for p in range(0, 300, 10)]
    assert all(sum(k < 3 for k in batch) == 5 for batch in seen)
    large = [k for batch in seen for k in batch if k >= 3]
    assert sorted(large[:50]) == sorted(large[50:100]) == list(range(3, 53))  # passes
    assert large[:50] != large[50:100]
    small = [k for batch in seen for k in batch if k < 3]
    assert all(sorted(small[i : i + 3]) == [0, 1, 2] for i in range(0, 150, 3))


def test_processes_share_what_one_sees(samples):
    faces = TrainingFaces(samples, 1, [], sets=(3, 50), mirror=mirror_table(10))
    whole = faces.batch(40, 8, CPU)
    parts = [faces.batch(40, 8, CPU, rank, 2) for rank in (0, 1)]
    for key in ("truth", "labels"):
        assert torch.equal(whole[key], torch.cat([part[key] for part in parts]))


def test_every_face_once_whatever_the_sets(samples):
    faces = TrainingFaces(samples, 1, [], sets=(3, 50))
    assert sorted(k for batch in faces.once(10, CPU) for k in faces_in(batch)) == list(range(53))


def test_wrong_sizes_of_sets_are_refused(samples):
    with pytest.raises(ValueError, match="sets of 54 faces in all, 53 are given"):
        TrainingFaces(samples, 1, [], sets=(4, 50))


def test_half_of_the_faces_are_mirrored_with_their_maps(samples):
    plain = TrainingFaces(samples, 1, [])
    turned = TrainingFaces(samples, 1, [], mirror=mirror_table(10))
    a, b = plain.batch(0, 400, CPU), turned.batch(0, 400, CPU)
    same = (a["truth"] == b["truth"]).flatten(1).all(1)
    assert 0.4 < same.float().mean() < 0.6
    assert torch.equal(a["truth"][~same].flip(-1), b["truth"][~same])
    # left eye and right eye have changed places with the sides: the map is as it was
    assert torch.equal(a["labels"], b["labels"])
    assert torch.equal(turned.batch(7, 3, CPU)["truth"], b["truth"][7:10])  # by place alone


def test_the_mirror_table_swaps_left_and_right():
    for classes, names in ((10, LABELS_10), (19, LABELS_19)):
        table = mirror_table(classes)
        assert (table[table] == np.arange(classes)).all()
        swapped = {names[i] for i in range(classes) if table[i] != i}
        assert swapped == {name for name in names if name[2:] in ("eye", "brow", "ear")}
    with pytest.raises(ValueError, match="10 or 19"):
        mirror_table(11)


def test_a_jitter_of_both_varies_the_truth_alike():
    step = {"kind": "jitter", "brightness": [0.5, 1.5], "saturation": [0.2, 2.0]}
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for both in (False, True):
        recipe = Recipe.model_validate({"size": 16, "steps": [{**step, "both": both}]})
        drawn = [draw(recipe, numpy_generator(1, i)) for i in range(4)]
        degraded, truth = degrade_batch(images, recipe, drawn)
        assert torch.equal(degraded, truth) == both
        assert torch.equal(truth, images) != both


class Net:
    def descriptors(self, images, crop_scale, crop_shift):
        self.frame = (crop_scale, crop_shift)
        return images.flatten(1)[:, :3] * 2


def test_identity_is_the_squared_distance_of_descriptors():
    net = Net()
    loss = identity_of({"identity": net, "frame": (1.0, 0.2)}, 0.5)
    a = torch.zeros(2, 3, 4, 4, requires_grad=True)
    b = torch.full((2, 3, 4, 4), 0.5)
    found = loss(a, b)
    assert float(found.detach()) == pytest.approx(3.0) and net.frame == (1.0, 0.2)
    found.backward()
    assert a.grad.abs().sum() > 0
    assert identity_of({}, 0.0) is None
    with pytest.raises(ValueError, match="identity_weight needs the recognition net"):
        identity_of({}, 1.0)


def test_a_part_without_weight_is_not_asked_for():
    row = METHODS["psfr_gan"]
    assert "identity" not in row.parts({}, training=True)
    assert row.parts({"identity_weight": 1.0}, training=True)["identity"] == "dlib_resnet"
    assert row.parts({"identity_weight": 1.0}, training=False) == {}
