"""The pretrained parts that metrics measure with: a loader an asset, of its name.

Each takes (path, device). An asset without one here gives its path: a metric of your own may read
it as it likes.
"""

from pathlib import Path

from frcore.frozen import faceres as faceres_net
from frcore.frozen import features as feature_nets
from frcore.frozen import identity, stlpips
from frcore.metrics import lpips as perception
from frcore.metrics import noreference


def dlib_resnet(path, device):
    """dlib's face recognition; what it saw last is not computed again."""
    return identity.Remembering(identity.load(path, device))


def faceres(path, device):
    """Face recognition that no method trains with; what it saw last is not computed again."""
    return identity.Remembering(faceres_net.load(path, device))


def stlpips_vgg(path, device):
    """ST-LPIPS on VGG."""
    return perception.Compared(stlpips.load("vgg", path, device))


def stlpips_alex(path, device):
    """ST-LPIPS on AlexNet."""
    return perception.Compared(stlpips.load("alex", path, device))


def alexnet(path, device):
    """LPIPS on AlexNet."""
    net = perception.load_lpips("alex", path, device)
    return perception.Compared(perception.PackageLpips(net))


def vgg16(path, device):
    """LPIPS on VGG16."""
    net = perception.load_lpips("vgg", path, device)
    return perception.Compared(perception.PackageLpips(net))


def mobilenet_v2(path, device):
    """Features of MobileNetV2."""
    return feature_nets.load("mobilenet_v2", path, device)


def inception(path, device):
    """Features of FID's Inception."""
    return feature_nets.load("inception", path, device)


def niqe(path, device):
    """NIQE's model."""
    return noreference.load_niqe(path)


def load(asset: str, path: str | Path, device):
    """The part made of asset `asset`."""
    loader = globals().get(asset)
    return Path(path) if loader is None else loader(path, device)
