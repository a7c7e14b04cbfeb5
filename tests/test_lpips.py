"""LPIPS and the ImageNet features beneath it, as they are fetched, against the lpips package."""

import contextlib
import io
import warnings

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn

from frcore.frozen import imagenet, perceptual
from frcore.frozen.torchvision_cpu import import_torchvision
from frcore.metrics import lpips as perception
from frcore.metrics import score

NETS = {"alex": "alexnet", "vgg": "vgg16"}


def file_of(resources, net: str):
    asset = NETS[net]
    return resources(asset) / asset / f"{asset}.safetensors"


def packages_own(net: str, path) -> nn.Module:
    """The package's network with the fetched convolutions put in by their order."""
    import_torchvision()
    import lpips

    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = lpips.LPIPS(net=net, version="0.1", pnet_rand=True, verbose=False)
    state = safetensors.torch.load_file(path)
    numbers = sorted({int(key.split(".")[1]) for key in state if key.startswith("features.")})
    convs = [layer for layer in module.net.modules() if isinstance(layer, nn.Conv2d)]
    assert len(convs) == len(numbers)
    for number, conv in zip(numbers, convs):
        conv.load_state_dict(
            {kind: state[f"features.{number}.{kind}"] for kind in conv._parameters}
        )
    return module.eval()


def pairs(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """n coloured pictures with large and small structure, and each made worse in another way."""
    generator = torch.Generator().manual_seed(7)
    coarse, fine = (torch.rand(n, 3, side, side, generator=generator) for side in (6, 64))
    truth = 0.8 * F.interpolate(coarse, size=64, mode="bicubic").clamp(0, 1) + 0.2 * fine
    restored = truth.clone()
    for i in range(n):
        if i % 3 == 0:
            restored[i] = F.avg_pool2d(truth[i : i + 1], 5, 1, 2)[0]
        elif i % 3 == 1:
            noise = torch.randn(truth[i].shape, generator=generator)
            restored[i] = (truth[i] + (0.02 + 0.01 * i) * noise).clamp(0, 1)
        else:
            restored[i] = truth[i].roll(i, dims=2)
    return restored, truth


@pytest.mark.parametrize("net", list(NETS))
def test_measured_values_are_the_packages(net, resources):
    path, metric = file_of(resources, net), f"lpips_{net}_v0.1"
    restored, truth = pairs(20)
    nets = score.load_nets({NETS[net]: path}, [metric])
    names = [str(i) for i in range(20)]
    rows = score.score_images(restored, truth, names, [metric], nets)
    x, y = ((images * 255).round() / 255 for images in (restored, truth))
    with torch.no_grad():
        wanted = packages_own(net, path)(x, y, normalize=True).flatten()
    found = torch.tensor([row["value"] for row in rows])
    assert (found - wanted).abs().max() < 1e-5
    assert wanted.min() > 0.005 and wanted.max() > 0.3


# the first filters of torchvision's own networks, as a public notebook prints them
VGG = [[-0.5537, 0.1427, 0.5290], [-0.5831, 0.3566, 0.7657], [-0.6902, -0.0480, 0.4841]]
ALEX = [0.11864, 0.094069, 0.095435]


def test_weights_are_torchvisions(resources):
    first = imagenet.features("vgg16", file_of(resources, "vgg"))[0].weight[0, 0]
    torch.testing.assert_close(first, torch.tensor(VGG), atol=5e-5, rtol=0)
    first = imagenet.features("alexnet", file_of(resources, "alex"))[0].weight[0, 0, 0, :3]
    torch.testing.assert_close(first, torch.tensor(ALEX), atol=5e-6, rtol=0)


@pytest.mark.parametrize("net", list(NETS))
def test_heads_are_the_packages(net, resources):
    path = file_of(resources, net)
    own = perception.load_lpips(net, path).state_dict()
    heads = {k: v for k, v in safetensors.torch.load_file(path).items() if k.startswith("lin")}
    assert len(heads) == 5
    for name, head in heads.items():
        assert torch.equal(head, own[name]), name


def test_whole_file_and_features_give_the_same(resources, tmp_path):
    """torchvision's own file holds the classifier too."""
    path = file_of(resources, "alex")
    whole = import_torchvision().models.alexnet(weights=None)
    whole.features.load_state_dict(imagenet.features("alexnet", path).state_dict())
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    restored, truth = pairs(3)
    values = [
        perception.lpips_distance(restored, truth, perception.load_lpips("alex", file))
        for file in (path, tmp_path / "whole.pth")
    ]
    assert (values[0] == values[1]).all()


def test_other_files_are_refused(resources, tmp_path):
    path = file_of(resources, "alex")
    with pytest.raises(RuntimeError, match=r"alexnet\.safetensors: not vgg16's features"):
        imagenet.features("vgg16", path)
    (tmp_path / "half.safetensors").write_bytes(path.read_bytes()[:5000])
    with pytest.raises(RuntimeError, match="is damaged"):
        imagenet.features("alexnet", tmp_path / "half.safetensors")
    with pytest.raises(FileNotFoundError):
        imagenet.features("alexnet", tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="unknown ImageNet net 'resnet'"):
        imagenet.features("resnet", path)


def test_perceptual_net_of_the_fetched_features(resources):
    """VGG16 as the methods' losses take it: frozen, real features, gradients to the images."""
    net = perceptual.load("vgg16", file_of(resources, "vgg"), min_side=0)
    restored, truth = pairs(2)
    images = restored.requires_grad_()
    found = net(images)
    assert list(found) == list(perceptual.DEFAULT_TAPS["vgg16"])
    perceptual.feature_distance(found, net(truth)).sum().backward()
    assert images.grad.abs().max() > 0 and not any(p.requires_grad for p in net.parameters())
