"""faceres: the network against TensorFlow.js, its window, what it says of people."""

import json

import numpy as np
import pytest
import safetensors
import torch
from PIL import Image
from safetensors.numpy import load_file

from frcore.faces import align
from frcore.frozen import faceres, identity
from frcore.io import converters
from frcore.metrics import identity as metrics
from frcore.metrics import score
from frcore.registry import METHODS, METRICS, NETS

# what TensorFlow.js 4 (CPU) gives for the two pictures of `pictures`: places, values, lengths
PLACES = [7, 160, 198, 444, 584, 818]
GOLDEN = [
    [0.993305, 0.318347, 1.18663, 0.134186, 2.346389, 1.475234],
    [0.926304, 2.723354, 2.528816, 0.279312, 3.781535, 1.573731],
]
LENGTHS = [4.77459, 6.25728]


def pictures() -> torch.Tensor:
    """Two pictures by formula, 2 x 3 x 224 x 224 in [0, 1]."""
    y, x = np.meshgrid(np.arange(224), np.arange(224), indexing="ij")
    waves = np.stack([np.sin(y / 9 + x / 17), np.cos(y / 13 - x / 7), np.sin(x * y / 900)])
    steps = np.stack([(y * 3 + x * 5) % 256, (y * x // 7) % 256, (y + 2 * x) % 256])
    return torch.from_numpy(np.stack([waves * 100 + 128, steps]).astype(np.float32)) / 255


@pytest.fixture(scope="module")
def path(resources):
    return resources("faceres") / "faceres/faceres.safetensors"


@pytest.fixture(scope="module")
def net(path):
    return faceres.load(path)


def test_network_equals_tensorflow_js(net):
    found = net(pictures())
    assert found.shape == (2, faceres.SIZE)
    torch.testing.assert_close(found[:, PLACES], torch.tensor(GOLDEN), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.norm(dim=1), torch.tensor(LENGTHS), atol=1e-4, rtol=0)
    # RGB, not BGR: the order of the channels is part of the network
    assert (net(pictures().flip(1)) - found).abs().max() > 0.1


def changed(path, out, weights=None, graph=None):
    """The file with some weights or nodes replaced."""
    with safetensors.safe_open(str(path), framework="np") as opened:
        nodes = json.loads(opened.metadata()["graph"])
    header = {"graph": json.dumps(nodes | (graph or {}))}
    converters.write_safetensors(out, load_file(path) | (weights or {}), header)
    return out


def test_other_networks_are_refused(path, tmp_path):
    out = tmp_path / "other.safetensors"
    half = np.float16
    for change, said in (
        ({"graph": {"conv_dw_2/depthwise": ["DepthwiseConv2dNative",
            ["conv_pw_1_relu/clip_by_value", "conv_dw_2/depthwise_kernel"], [1, 1, 1, 1], "SAME"]}},
         r"conv_dw_2/depthwise is .*\[1, 1, 1, 1\].*, expected .*\[1, 2, 2, 1\]"),
        ({"graph": {"global_pooling/Mean": ["Max", [], [], ""]}}, "global_pooling/Mean is"),
        ({"weights": {"conv_pw_3/convolution/merged_input": np.zeros((1, 1, 64, 128), half)}},
         r"conv_pw_3 is \(128, 64, 1, 1\), not \(128, 128, 1, 1\)"),
        ({"weights": {"conv_dw_4_bn/batchnorm_1/sub": np.zeros(3, half)}}, "conv_dw_4 is"),
        ({"weights": {"conv_dw_5_relu/Cast": np.array(1, half)}}, r"conv_dw_5 is cut at \[0.0, 1"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"other.safetensors: not faceres: {said}"):
            faceres.load(changed(path, out, **change))
    assert faceres.load(changed(path, out)) is not None
    out.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="not faceres"):
        faceres.load(out)
    converters.write_safetensors(out, {"a": np.zeros(3, np.float32)})
    with pytest.raises(ValueError, match="not faceres"):
        faceres.load(out)
    with pytest.raises(FileNotFoundError):
        faceres.load(tmp_path / "none.safetensors")


def test_shapes_are_checked(net):
    with pytest.raises(ValueError, match="expected N x 3 x 224 x 224"):
        net(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match="expected N x 3 x S x S"):
        net.descriptors(torch.zeros(1, 3, 64, 32))
    with pytest.raises(ValueError, match="must be positive"):
        faceres.window(64, 0.0)


def test_gradient_agrees_with_a_difference_quotient(net):
    double = faceres.FaceRes().double()
    double.load_state_dict(net.state_dict())
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(1, 3, 64, 64, generator=generator, dtype=torch.float64).requires_grad_()
    step = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    double.descriptors(x).sum().backward()
    with torch.no_grad():
        ends = [double.descriptors(x + h * step).sum() for h in (1e-6, -1e-6)]
    slope = (ends[0] - ends[1]) / 2e-6
    assert (x.grad * step).sum().item() == pytest.approx(slope.item(), rel=1e-3)
    assert not any(parameter.requires_grad for parameter in net.parameters())


def test_window_stays_on_the_face_when_the_alignment_changes():
    """One face drawn in two frames of different crop, size and shift gives the same chip."""

    def frame(side, scale, shift):
        steps = (torch.arange(side, dtype=torch.float64) + 0.5) * 2 * scale / side - scale
        y, x = torch.meshgrid(steps + shift * 0.515, steps, indexing="ij")
        image = torch.stack([torch.sin(3 * x), torch.cos(4 * y), torch.sin(2 * x + 3 * y)])
        return (0.5 + 0.4 * image)[None].float()

    def chip(image, *alignment):
        left, top, width = faceres.window(image.shape[-1], *alignment)
        return identity.cut(image, left, top, width, faceres.CHIP_SIDE)

    wanted = chip(frame(256, 1.0, 0.1), 1.0, 0.1)
    found = chip(frame(192, 1.2, 0.25), 1.2, 0.25)
    assert (wanted - found).abs().max() < 0.01
    assert (wanted - chip(frame(192, 1.2, 0.25), 1.2, 0.1)).abs().max() > 0.1
    # in FFHQ's own frame the square lies inside: 0.701 of it wide, its middle 0.619 down
    left, top, width = faceres.window(1000, 1.0, 0.1)
    assert (left + width / 2, top + width / 2, width) == pytest.approx((500, 618.5, 701), abs=1)


@pytest.fixture(scope="module")
def people(resources):
    """Four aligned faces of each of 20 people of ORL, 20 x 4 x 3 x 64 x 64."""
    dlib = pytest.importorskip("dlib")
    root = resources("orl", "dlib_68")
    detect = dlib.get_frontal_face_detector()
    predict = dlib.shape_predictor(str(root / "dlib_68/shape_predictor_68_face_landmarks.dat"))
    found = []
    for person in range(1, 41):
        faces = []
        for number in range(1, 11):
            [file] = (root / "orl").rglob(f"s{person}/{number}.pgm")
            with Image.open(file) as image:
                image = image.convert("RGB").resize((276, 336), Image.Resampling.BICUBIC)
            pixels = np.asarray(image)
            for box in detect(pixels)[:1]:
                points = predict(pixels, box).parts()
                square = align.crop_square(np.array([[p.x, p.y] for p in points]), 0.7)
                faces.append(align.warp(image, square, 64))
            if len(faces) == 4:
                found.append(np.stack(faces))
                break
        if len(found) == 20:
            break
    return torch.from_numpy(np.stack(found)).permute(0, 1, 4, 2, 3).float() / 255


def separation(vectors: np.ndarray) -> float:
    """P x K x D of P people -> the chance that two faces of one are more alike than two of two."""
    count = vectors.shape[1]
    flat = vectors.reshape(-1, vectors.shape[-1])
    flat = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    alike, owner = flat @ flat.T, np.arange(len(flat)) // count
    pairs = np.triu(np.ones_like(alike, dtype=bool), 1)
    same = alike[(owner[:, None] == owner) & pairs]
    other = np.sort(alike[(owner[:, None] != owner) & pairs])
    return float(np.searchsorted(other, same).mean() / len(other))


def test_one_person_is_told_from_another(net, people):
    faces = people.flatten(0, 1)
    vectors = torch.cat([net.descriptors(part) for part in faces.split(20)])
    assert separation(vectors.view(20, 4, -1).double().numpy()) > 0.99
    upside_down = torch.cat([net.descriptors(part.flip(2)) for part in faces.split(20)])
    assert separation(upside_down.view(20, 4, -1).double().numpy()) < 0.97


def test_metric(path, people):
    truth = people[:4, 0]
    blurred = torch.nn.functional.avg_pool2d(truth, 3, 1, 1, count_include_pad=False)
    other = truth.roll(1, 0)
    nets = score.load_nets({"faceres": path}, ["id_faceres"])
    values = []
    for faces in (truth, blurred, other):
        rows = score.score_images(faces, truth, list("abcd"), ["id_faceres"], nets)
        values.append(np.array([row["value"] for row in rows]))
    assert values[0] == pytest.approx(1, abs=1e-6)
    assert (values[1] < 0.98).all() and (values[1] > values[2]).all()
    net = faceres.load(path)
    direct = metrics.id_faceres(*[(x * 255).round() / 255 for x in (blurred, truth)], net)
    assert values[1] == pytest.approx(direct, abs=1e-5)
    [row] = score.score_images(truth[:1], truth[:1], ["a"], ["id_faceres"], {})
    assert row["value"] is None and row["note"] == "no weights: faceres"


def test_nothing_trains_with_the_judge():
    assert METRICS["id_faceres"].assets == ("faceres",) and "faceres" not in NETS.values()
    for name, row in METHODS.items():
        assert "faceres" not in (*row.assets, *row.training_assets), name
