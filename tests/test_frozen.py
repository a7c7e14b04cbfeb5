"""Helper nets: dlib's identity net, perceptual and set features, ST-LPIPS, torchvision."""

import subprocess
import sys
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from frcore.frozen import emotion, features, identity, perceptual, stlpips
from frcore.frozen.torchvision_cpu import import_torchvision

DLIB_FILE = "dlib_resnet/dlib_face_recognition_resnet_model_v1.dat"
MOBILENET_FILE = "mobilenet_v2/mobilenet_v2-b0353104.pth"


def waves(height, width, phase=0.0):
    """A smooth colour image by formula, so that scores of it can be written down."""
    y, x = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    channels = [torch.sin(x / 5 + phase), torch.cos(y / 7 - phase), torch.sin((x + y) / 9 + phase)]
    return 0.5 + 0.4 * torch.stack(channels)[None]


# ---- torchvision ----


def test_torchvision_imports_in_a_fresh_process():
    code = (
        "from frcore.frozen.torchvision_cpu import import_torchvision as f; import sys;"
        "assert 'torchvision' not in sys.modules; tv = f();"
        "assert f() is tv; print(tv.models.mobilenet_v2.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "mobilenet_v2", done.stderr


def test_missing_torchvision_is_named():
    modules = {name: sys.modules[name] for name in sys.modules if name != "torchvision"}
    with (
        mock.patch.dict(sys.modules, modules, clear=True),
        mock.patch("importlib.util.find_spec", return_value=None),
        pytest.raises(ImportError, match="pip install torchvision"),
    ):
        import_torchvision()


# ---- perceptual ----


def vgg(net):
    """Random VGG layers without the huge classifier."""
    models = import_torchvision().models.vgg
    torch.manual_seed(3)
    return models.make_layers(models.cfgs[{"vgg19": "E", "vgg16": "D"}[net]])


@pytest.mark.parametrize("net", ["vgg19", "vgg16"])
def test_vgg_tap_names_point_at_the_right_layers(net):
    kinds = {"conv": torch.nn.Conv2d, "relu": torch.nn.ReLU, "pool": torch.nn.MaxPool2d}
    layers = vgg(net)
    taps = perceptual.tap_names(net)
    assert len(taps) == len(layers)
    assert all(isinstance(layers[index], kinds[name[:4]]) for name, index in taps.items())
    # torchvision's numbers that papers and codes quote
    quoted = {
        "vgg19": {"conv1_2": 2, "conv2_2": 7, "relu3_4": 17, "relu4_4": 26, "conv5_4": 34},
        "vgg16": {"conv4_3": 21, "relu3_3": 15, "conv5_3": 28},
    }[net]
    assert {name: taps[name] for name in quoted} == quoted


def test_vgg_taps_are_not_changed_by_the_layer_after_them():
    layers = vgg("vgg19")
    reference = {}
    x = image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    x = (x - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).view(3, 1, 1)
    for index, layer in enumerate(layers):
        x = layer(x.clone())  # the clone takes the in-place ReLU of the next round
        reference[index] = x.detach().clone()
    wanted = ("conv1_2", "conv3_4", "relu3_4", "conv5_4")
    found = perceptual.Perceptual("vgg19", layers, wanted, min_side=0)(image)
    assert tuple(found) == wanted
    for name, feature in found.items():
        torch.testing.assert_close(feature, reference[perceptual.tap_names("vgg19")[name]])
    assert (found["conv5_4"] < 0).any() and (found["conv3_4"] < 0).any()
    torch.testing.assert_close(found["relu3_4"], found["conv3_4"].relu())


def test_perceptual_stops_after_the_last_tap_and_enlarges_small_images():
    net = perceptual.Perceptual("vgg19", vgg("vgg19"), ["relu1_2", "conv1_1"], min_side=48)
    assert len(net.layers) == 4 and net.taps == ("conv1_1", "relu1_2")
    image = torch.rand(1, 3, 24, 30)
    by_hand = F.interpolate(image, size=(48, 60), mode="bilinear")
    torch.testing.assert_close(net(image)["relu1_2"], net(by_hand)["relu1_2"])
    assert net(image)["relu1_2"].shape == (1, 64, 48, 60)


def test_mobilenet_gradients_flow_to_the_image_only(resources):
    net = perceptual.load("mobilenet_v2", resources("mobilenet_v2") / MOBILENET_FILE)
    assert not net.train().training and not any(layer.training for layer in net.modules())
    image = waves(64, 64).requires_grad_()
    found = net(image)
    sizes = {name: tuple(feature.shape[1:]) for name, feature in found.items()}
    assert sizes == {
        "features1": (16, 64, 64),
        "features3": (24, 32, 32),
        "features6": (32, 16, 16),
        "features10": (64, 8, 8),
        "features13": (96, 8, 8),
    }
    perceptual.feature_distance(found, net(waves(64, 64, 1.0))).sum().backward()
    assert image.grad.abs().max() > 0 and torch.isfinite(image.grad).all()
    assert all(parameter.grad is None for parameter in net.parameters())


def test_feature_distance_by_hand():
    u = {"a": torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)}  # unit vector 0.6, 0.8
    v = {"a": torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)}
    assert perceptual.feature_distance(u, v).item() == pytest.approx(0.4**2 + 0.8**2, abs=1e-6)
    assert perceptual.feature_distance(u, u).item() == 0
    with pytest.raises(ValueError, match="taps differ"):
        perceptual.feature_distance(u, {"b": u["a"]})


def test_folded_normalisation_is_the_same_function():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU6()),
        nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8)),
    ).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.running_mean, module.weight.data, module.bias.data):
                values.normal_()
            module.running_var.uniform_(0.5, 2)
    x = torch.randn(2, 3, 12, 12)
    before = net(x)
    perceptual.fold_normalisation(net)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    torch.testing.assert_close(net(x), before, rtol=1e-4, atol=1e-5)


def test_perceptual_orders_blur_noise_and_another_face(resources):
    """Unlike ST-LPIPS: more blur is farther, and another face is farther than a blurred one."""
    root = resources("mobilenet_v2", "orl")
    net = perceptual.load("mobilenet_v2", root / MOBILENET_FILE)
    face, other = (orl_face(root, person, 64) for person in (1, 2))

    def blurred(sigma):
        offsets = torch.arange(-9.0, 10)
        kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
        kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
        rows = F.conv2d(F.pad(face, (9, 9, 9, 9), "reflect"), kernel, groups=3)
        return F.conv2d(rows, kernel.transpose(2, 3), groups=3)

    with torch.no_grad():
        found = net(face)
        changed = [blurred(0.5), blurred(1.0), blurred(2.0), other]
        distances = [perceptual.feature_distance(net(x), found).item() for x in changed]
    assert distances == sorted(distances) and distances[0] > 0.001


def test_perceptual_errors(tmp_path):
    with pytest.raises(ValueError, match="unknown perceptual net 'resnet'"):
        perceptual.load("resnet", tmp_path / "none.pth")
    with pytest.raises(ValueError, match="unknown taps \\['relu9'\\]"):
        perceptual.Perceptual("vgg16", vgg("vgg16"), ["relu9"], 0)
    with pytest.raises(FileNotFoundError):
        perceptual.load("mobilenet_v2", tmp_path / "none.pth")
    torch.save({"features.0.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(RuntimeError, match="Missing key"):
        perceptual.load("mobilenet_v2", tmp_path / "other.pth")
    net = perceptual.Perceptual("vgg16", vgg("vgg16"), ["conv1_1"], 0)
    with pytest.raises(ValueError, match=r"expected N x 3 x H x W, got \(3, 8, 8\)"):
        net(torch.zeros(3, 8, 8))


# ---- identity ----


def orl_paths(root):
    # file names repeat from person to person: s1/1.pgm, s2/1.pgm, ...
    return {(path.parent.name, path.stem): path for path in (root / "orl").rglob("*.pgm")}


def orl_face(root, person, side):
    with Image.open(orl_paths(root)[f"s{person}", "1"]) as image:
        pixels = np.asarray(image.convert("RGB").crop((0, 10, 92, 102)).resize((side, side)))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255


@pytest.fixture(scope="module")
def net(resources):
    return identity.load(resources("dlib_resnet") / DLIB_FILE)


@pytest.fixture(scope="module")
def found_faces(resources):
    """(uint8 photograph, dlib's landmarks) of ten people, photographs enlarged three times."""
    dlib = pytest.importorskip("dlib")
    root = resources("dlib_68", "orl")
    detect = dlib.get_frontal_face_detector()
    predict = dlib.shape_predictor(str(root / "dlib_68/shape_predictor_68_face_landmarks.dat"))
    found = []
    for person in range(1, 11):
        with Image.open(orl_paths(root)[f"s{person}", "1"]) as image:
            image = image.convert("RGB")
            pixels = np.array(image.resize((3 * image.width, 3 * image.height), Image.BICUBIC))
        found += [(pixels, predict(pixels, box)) for box in detect(pixels)[:1]]
    assert len(found) >= 8
    return found


def as_array(shape):
    return np.array([[point.x, point.y] for point in shape.parts()])


def test_descriptors_equal_dlibs_on_real_faces(net, resources, found_faces):
    import dlib

    theirs = dlib.face_recognition_model_v1(str(resources("dlib_resnet") / DLIB_FILE))
    tint = np.random.default_rng(0)
    for pixels, shape in found_faces:
        chip = dlib.get_face_chip(pixels, shape, 150, 0.25)
        # the photographs are grey: a tint shows a wrong order of the channels
        tinted = np.clip(chip * tint.uniform(0.4, 1, 3), 0, 255).astype(np.uint8)
        both = np.stack([chip, tinted])
        ours = net(torch.from_numpy(both).permute(0, 3, 1, 2).float() / 255)
        for own, image in zip(ours, both):
            other = np.array(theirs.compute_face_descriptor(image))
            np.testing.assert_allclose(own.numpy(), other, rtol=0, atol=1e-5)


def test_identity_gradient_agrees_with_a_difference_quotient(net):
    double = identity.Identity().double()
    double.load_state_dict(net.state_dict())
    double.mean.copy_(net.mean)
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(1, 3, 64, 64, generator=generator, dtype=torch.float64).requires_grad_()
    step = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    weights = torch.randn(128, generator=generator, dtype=torch.float64)

    def value(frames):
        return (double.descriptors(frames) * weights).sum()

    value(x).backward()
    slope = (value(x.detach() + 1e-7 * step) - value(x.detach() - 1e-7 * step)) / 2e-7
    assert (x.grad * step).sum().item() == pytest.approx(slope.item(), rel=1e-4)
    assert all(parameter.grad is None for parameter in double.parameters())


def test_window_stays_on_the_face_when_the_alignment_changes():
    """One face drawn in two frames of different crop, size and shift gives the same chip."""
    unit, eyes_to_mouth = 1.0, 24.1 / 64 * 1.4  # the face in its own units, eyes at the origin

    def frame(side, scale, shift):
        pixel = 2 * scale * unit / side
        steps = (torch.arange(side, dtype=torch.float64) + 0.5) * pixel - scale * unit
        y, x = torch.meshgrid(steps + shift * eyes_to_mouth, steps, indexing="ij")
        image = torch.stack([torch.sin(3 * x), torch.cos(4 * y), torch.sin(2 * x + 3 * y)])
        return (0.5 + 0.4 * image)[None].float()

    chip = identity.chips(frame(256, 1.0, 0.1), 1.0, 0.1)
    other = identity.chips(frame(192, 1.2, 0.25), 1.2, 0.25)
    assert (chip - other).abs().max() < 0.01
    moved = identity.chips(frame(192, 1.2, 0.25), 1.2, 0.1)
    assert (chip - moved).abs().max() > 0.1


def test_window_of_the_measured_alignment():
    assert identity.window(64, 0.7, 0.1) == pytest.approx((0, 9.1, 64))
    chip = identity.chips(torch.ones(1, 3, 64, 64))
    # 9.1 of 64 rows lie below the frame: 21 of the chip's 150
    assert torch.equal(chip[0, 0, :, 75] == 0, torch.arange(150) >= 130)
    assert chip[0, 0, :125].min() == pytest.approx(1.0, abs=0.5)
    assert chip[0, 0, 5:120, 5:145].min() == 1


def test_large_frames_are_reduced_without_aliasing():
    stripes = torch.zeros(1, 3, 512, 512)
    stripes[..., ::2] = 1  # finer than the chip can show: must become even grey
    chip = identity.chips(stripes)[..., 10:120, 10:140]
    assert chip.min() > 0.45 and chip.max() < 0.55


def test_identity_errors(net, tmp_path, resources):
    with pytest.raises(ValueError, match="expected N x 3 x 150 x 150"):
        net(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match="expected N x 3 x S x S"):
        net.descriptors(torch.zeros(1, 3, 64, 32))
    with pytest.raises(ValueError, match="must be positive"):
        identity.window(64, 0.0)
    data = (resources("dlib_resnet") / DLIB_FILE).read_bytes()
    damaged = tmp_path / "damaged.dat"
    for content, reason in (
        (data[: len(data) // 2], "ends at byte"),
        (data + b"\0", "1 bytes are left"),
        (b"PK\3\4 nothing of dlib", "not dlib's"),
        (data.replace(b"loss_metric_2", b"loss_metric_3"), "expected 'loss_metric_2'"),
    ):
        damaged.write_bytes(content)
        with pytest.raises(ValueError, match=reason):
            identity.load(damaged)


# ---- ST-LPIPS ----

# distances that the authors' package (stlpips_pytorch 0.0.2) gave for waves(64, 64) and
# waves(64, 64, 0.7), and the same at 65 x 50
STLPIPS_GOLDEN = {"vgg": (0.3365762, 0.3476069), "alex": (0.1631366, 0.2122078)}


@pytest.mark.parametrize("name", ["vgg", "alex"])
def test_stlpips_equals_the_authors_package(name, resources):
    path = resources(f"stlpips_{name}") / f"stlpips_{name}/{name}_shift_tolerant.pth"
    net = stlpips.load(name, path)
    pairs = [(waves(64, 64), waves(64, 64, 0.7)), (waves(65, 50), waves(65, 50, 0.7))]
    with torch.no_grad():
        found = [net.distance(a, b).item() for a, b in pairs]
        both = net.distance(torch.cat([pairs[0][0]] * 2), torch.cat(pairs[0]))
    assert found == pytest.approx(STLPIPS_GOLDEN[name], abs=2e-6)
    assert both[0] == 0 and both[1].item() == pytest.approx(found[0], abs=1e-6)


def test_stlpips_gradient_and_errors(resources):
    path = resources("stlpips_alex") / "stlpips_alex/alex_shift_tolerant.pth"
    net = stlpips.load("alex", path)
    image = waves(32, 32).requires_grad_()
    net(image, waves(32, 32, 1.0)).sum().backward()
    assert image.grad.abs().max() > 0
    flat = torch.zeros(1, 3, 32, 32, requires_grad=True)  # all-zero features must not give NaN
    net(flat, torch.ones(1, 3, 32, 32)).sum().backward()
    assert torch.isfinite(flat.grad).all()
    with pytest.raises(ValueError, match="at least 21 px"):
        net(torch.zeros(1, 3, 20, 64), torch.zeros(1, 3, 20, 64))
    with pytest.raises(ValueError, match="two equal"):
        net(torch.zeros(1, 3, 32, 32), torch.zeros(2, 3, 32, 32))
    with pytest.raises(ValueError, match="unknown ST-LPIPS net 'squeeze'"):
        stlpips.load("squeeze", path)
    with pytest.raises(RuntimeError, match="Missing key"):
        stlpips.load("vgg", path)


@pytest.mark.parametrize("name", ["vgg", "alex"])
def test_stlpips_smallest_side_is_the_smallest_that_works(name):
    net = stlpips.ShiftTolerantLpips(name)
    small = torch.rand(1, 3, net.min_side, net.min_side)
    assert torch.isfinite(net(small, 1 - small)).all()
    net.min_side -= 1
    smaller = torch.rand(1, 3, net.min_side, net.min_side)
    with pytest.raises(RuntimeError):
        net(smaller, 1 - smaller)


# ---- features of sets ----


def test_mobilenet_features_are_torchvisions_pooled_ones(resources):
    path = resources("mobilenet_v2") / MOBILENET_FILE
    net = features.load("mobilenet_v2", path)
    model = import_torchvision().models.mobilenet_v2(weights=None).eval()
    model.load_state_dict(torch.load(path, weights_only=True))
    captured = []
    model.classifier.register_forward_pre_hook(lambda _, inputs: captured.append(inputs[0]))
    image = waves(64, 64)
    big = F.interpolate(image, scale_factor=2, mode="bilinear")
    mean, std = torch.tensor(perceptual.IMAGENET_MEAN), torch.tensor(perceptual.IMAGENET_STD)
    with torch.no_grad():
        model((big - mean.view(3, 1, 1)) / std.view(3, 1, 1))
        found = net(image)
    assert found.shape == (1, features.SIZES["mobilenet_v2"])
    torch.testing.assert_close(found, captured[0])


def test_inception_features_are_pytorch_fids(tmp_path):
    torchvision = import_torchvision()
    from pytorch_fid import inception

    torch.manual_seed(0)
    random = torchvision.models.inception_v3(
        weights=None, num_classes=1008, aux_logits=False, init_weights=False
    )
    torch.save(random.state_dict(), tmp_path / "inception.pth")
    net = features.load("inception", tmp_path / "inception.pth")
    image = waves(64, 64)
    state = random.state_dict()
    with mock.patch.object(inception, "load_state_dict_from_url", lambda *_, **__: state):
        theirs = inception.InceptionV3().eval()
    with torch.no_grad():
        found, wanted = net(image), theirs(image)[0][:, :, 0, 0]
    assert found.shape == (1, features.SIZES["inception"])
    assert torch.equal(found, wanted) and found.std() > 0
    assert not any(parameter.requires_grad for parameter in net.parameters())


def test_unknown_feature_net():
    with pytest.raises(ValueError, match="unknown feature net 'clip'"):
        features.load("clip", "none")


# ---- expression


def test_emotion_is_keras_net(resources):
    net = emotion.load(resources("emotion") / "emotion" / "emotion_model.hdf5")
    stored = {k: v for k, v in net.state_dict().items() if "num_batches" not in k}
    assert sum(value.numel() for value in stored.values()) == 58_423
    assert not any(p.requires_grad for p in net.parameters()) and not net.training
    images = torch.rand(3, 3, 48, 48, requires_grad=True)
    logits = net(images)
    assert logits.shape == (3, 7)
    logits[:, emotion.CLASSES.index("happy")].sum().backward()
    assert images.grad.abs().sum() > 0  # a loss can be made of it
    with torch.no_grad():
        torch.testing.assert_close(net(images[1:2]), logits[1:2])
        large = torch.nn.functional.interpolate(images, size=96, mode="bilinear")
        assert net(large).shape == (3, 7)


@pytest.mark.parametrize("side", [6, 7, 15, 60])
def test_pooling_pads_as_keras_does(side):
    """Of an even side none before and one after; of an odd one, one each."""
    x = torch.randn(1, 1, side, side)
    before = 0 if side % 2 == 0 else 1
    pooled = emotion.same_pool(x)[0, 0]
    assert pooled.shape == (-(-side // 2),) * 2
    for i in range(len(pooled)):
        for j in range(len(pooled)):
            rows, columns = (slice(max(2 * k - before, 0), 2 * k - before + 3) for k in (i, j))
            assert pooled[i, j] == x[0, 0, rows, columns].max()


def test_emotion_finds_the_smiles_of_orl(resources):
    """Looked at: the ten faces of ORL that it finds happiest smile; it calls few disgusted."""
    root = resources("emotion", "orl")
    net = emotion.load(root / "emotion" / "emotion_model.hdf5")

    def probability(person, name):
        photos = sorted((root / "orl" / "faces" / f"s{person}").iterdir())
        faces = [Image.open(path).convert("RGB").crop((6, 16, 86, 96)) for path in photos]
        images = torch.from_numpy(np.stack(faces)).permute(0, 3, 1, 2).float() / 255
        return float(net(images).softmax(1)[:, emotion.CLASSES.index(name)].mean())

    assert probability(5, "happy") > 2 * probability(1, "happy")
    assert probability(5, "disgust") < 0.1
