"""Degradation recipes: what may happen to a face, in which order, with which ranges. No torch here.

A recipe is an entry of `degradations:` in config.yaml. `frcore.degrade.draw` picks the parameters
of one image from it; `frcore.degrade.degrade_batch` carries them out.

Lengths (`*_px`) are pixels at the place in the chain where the step stands, for faces of `size`
pixels: a recipe of 512 px is not meant for 64 px. Noise and colour are on the 0..255 scale.
Every step is applied with probability `p`; ranges are inclusive and uniform.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict, model_validator

RESIZE_FILTERS = ("nearest", "bilinear", "area", "bicubic", "pulse_bicubic")


def _ordered(value: tuple) -> tuple:
    if value[0] > value[1]:
        raise ValueError(f"a range is [low, high] with low <= high, got {list(value)}")
    return value


# YAML has lists where the models have tuples, hence the lax outer type around strict numbers
Range = Annotated[tuple[float, float], Strict(False), AfterValidator(_ordered)]
IntRange = Annotated[tuple[int, int], Strict(False), AfterValidator(_ordered)]
Probability = Annotated[float, Field(ge=0, le=1)]


def _within(name: str, value: tuple, low: float, high: float) -> None:
    """Raise ValueError unless the range `value` lies in [low, high]."""
    if value[0] < low or value[1] > high:
        raise ValueError(f"{name} must lie in [{low:g}, {high:g}], got {list(value)}")


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class GaussianBlur(_Model):
    """Round Gaussian. `kernel_px`: odd side of the kernel, or a rule that derives it from sigma:
    imgaug (3.3, 2.9 or 2.6 sigma, at least 5) or three_sigma (2*ceil(3 sigma) + 1)."""

    shape: Literal["gaussian"]
    sigma_px: Range
    kernel_px: int | Literal["imgaug", "three_sigma"] = "three_sigma"

    @model_validator(mode="after")
    def _check(self):
        _within("sigma_px", self.sigma_px, 0, 100)
        _odd_kernel(self.kernel_px)
        return self


class AnisotropicBlur(_Model):
    """Gaussian with two independent widths, turned by an angle uniform in [-pi, pi]."""

    shape: Literal["anisotropic"]
    sigma_px: Range
    kernel_px: int

    @model_validator(mode="after")
    def _check(self):
        _within("sigma_px", self.sigma_px, 0, 100)
        _odd_kernel(self.kernel_px)
        return self


class BoxBlur(_Model):
    """Mean over a square; an even side leans half a pixel to the upper left, as in OpenCV."""

    shape: Literal["box"]
    side_px: IntRange

    @model_validator(mode="after")
    def _check(self):
        _within("side_px", self.side_px, 1, 99)
        return self


class MedianBlur(_Model):
    """Median of a square per channel; an even draw is made odd by adding one."""

    shape: Literal["median"]
    side_px: IntRange

    @model_validator(mode="after")
    def _check(self):
        _within("side_px", self.side_px, 1, 99)
        return self


class MotionBlur(_Model):
    """A line whose weights go linearly from d to 1-d, turned by an angle uniform in [0, 360)."""

    shape: Literal["motion"]
    side_px: IntRange
    direction: Range = (-1.0, 1.0)

    @model_validator(mode="after")
    def _check(self):
        _within("side_px", self.side_px, 3, 99)
        _within("direction", self.direction, -1, 1)
        return self


def _odd_kernel(kernel_px: int | str) -> None:
    if isinstance(kernel_px, int) and (kernel_px < 1 or kernel_px % 2 == 0):
        raise ValueError(f"kernel_px must be odd and positive, got {kernel_px}")


BlurChoice = Annotated[
    GaussianBlur | AnisotropicBlur | BoxBlur | MedianBlur | MotionBlur,
    Field(discriminator="shape"),
]


class _Step(_Model):
    p: Probability = 1.0


class Learned(_Step):
    """A generated pair takes the photograph's place: `model` is a trained degradation model.

    Its clean face becomes the truth; `image` says which of the two goes on down the chain. The
    latent is drawn with `truncation`. Only the first step of a recipe can be one.
    """

    kind: Literal["learned"]
    p: Literal[1.0] = 1.0
    model: str = Field(min_length=1)
    truncation: float = Field(0.8, gt=0, le=1)
    image: Literal["degraded", "clean"] = "degraded"


class Gray(_Step):
    """Luma (BT.601) in all channels. `both`: the truth of the pair becomes grey too."""

    kind: Literal["gray"]
    both: bool = False


class Blur(_Step):
    """One of `choices`, each equally likely."""

    kind: Literal["blur"]
    choices: Annotated[tuple[BlurChoice, ...], Strict(False), Field(min_length=1)]


class Down(_Step):
    """Shrink to a side drawn from `side_px`, or to floor(side / r) with r from `factor`.

    `antialias` widens bilinear and bicubic by the factor, as Pillow does (cubic a = -0.5); without
    it they look at 2 or 4 pixels only, as OpenCV does (cubic a = -0.75). nearest and area take no
    heed of it. pulse_bicubic is the operator of PULSE and SAIR: anti-aliased cubic with reflected
    border, for even whole factors.
    """

    kind: Literal["down"]
    side_px: IntRange | None = None
    factor: Range | None = None
    filters: Annotated[tuple[Literal[RESIZE_FILTERS], ...], Strict(False), Field(min_length=1)]
    antialias: bool = False

    @model_validator(mode="after")
    def _check(self):
        if (self.side_px is None) == (self.factor is None):
            raise ValueError("down needs either side_px or factor, and not both")
        if self.side_px is not None:
            _within("side_px", self.side_px, 1, 4096)
        else:
            _within("factor", self.factor, 0.25, 256)
        if "pulse_bicubic" in self.filters:
            low, high = self.factor or (0.0, 1.0)
            if low != high or low % 2:
                raise ValueError(
                    "pulse_bicubic needs one even whole factor, e.g. [8, 8], "
                    f"got factor {self.factor and list(self.factor)}"
                )
        return self


class Noise(_Step):
    """Additive Gaussian noise, its strength drawn per image.

    Either `std_255`, the standard deviation on the 0..255 scale, or `variance`, on the [0, 1]
    scale. With probability `per_channel` the three channels get independent noise, else the same.
    """

    kind: Literal["noise"]
    std_255: Range | None = None
    variance: Range | None = None
    per_channel: Probability = 1.0
    clip: bool = True

    @model_validator(mode="after")
    def _check(self):
        if (self.std_255 is None) == (self.variance is None):
            raise ValueError("noise needs either std_255 or variance, and not both")
        if self.std_255 is not None:
            _within("std_255", self.std_255, 0, 255)
        else:
            _within("variance", self.variance, 0, 1)
        return self


class Jpeg(_Step):
    """JPEG encode and decode at the side reached so far.

    Either `quality` (libjpeg's, whole number 1..100) or `compression` (imgaug's, 0..100, higher is
    worse; see `jpeg_quality`). Faces smaller than `min_side_px` are left alone.
    """

    kind: Literal["jpeg"]
    quality: IntRange | None = None
    compression: Range | None = None
    subsampling: Literal["4:2:0", "4:4:4"] = "4:2:0"
    min_side_px: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _check(self):
        if (self.quality is None) == (self.compression is None):
            raise ValueError("jpeg needs either quality or compression, and not both")
        if self.quality is not None:
            _within("quality", self.quality, 1, 100)
        else:
            _within("compression", self.compression, 0, 100)
        return self


class Up(_Step):
    """Enlarge (or shrink) to the recipe's `size`; `antialias` as in `Down`."""

    kind: Literal["up"]
    p: Literal[1.0] = 1.0
    filter: Literal["nearest", "bilinear", "area", "bicubic"]
    antialias: bool = False


class ColourShift(_Step):
    """Add one number per channel, drawn from `shift_255`; clip. The truth is untouched."""

    kind: Literal["colour_shift"]
    shift_255: Range

    @model_validator(mode="after")
    def _check(self):
        _within("shift_255", self.shift_255, -255, 255)
        return self


class Jitter(_Step):
    """Brightness, contrast, saturation (factors) and hue (turns) in random order; clip after each.

    The truth is untouched.
    """

    kind: Literal["jitter"]
    brightness: Range = (1.0, 1.0)
    contrast: Range = (1.0, 1.0)
    saturation: Range = (1.0, 1.0)
    hue: Range = (0.0, 0.0)

    @model_validator(mode="after")
    def _check(self):
        for name in ("brightness", "contrast", "saturation"):
            _within(name, getattr(self, name), 0, 10)
        _within("hue", self.hue, -0.5, 0.5)
        return self


Step = Annotated[
    Learned | Gray | Blur | Down | Noise | Jpeg | Up | ColourShift | Jitter,
    Field(discriminator="kind"),
]


class Recipe(_Model):
    """A chain of steps for faces of `size` x `size` pixels.

    `eight_bit`: round to 8 bit after every step, for pipelines that work on uint8 images; without
    it only JPEG and the end of the chain round. `source`: paper or file the numbers are from.
    """

    size: int = Field(ge=8, le=4096)
    steps: Annotated[tuple[Step, ...], Strict(False)]
    eight_bit: bool = False
    description: str = ""
    source: str = ""

    @property
    def learned(self) -> str | None:
        """Entry of `models:` whose pairs take the photographs' place, if there is one."""
        first = self.steps[0] if self.steps else None
        return first.model if isinstance(first, Learned) else None

    @model_validator(mode="after")
    def _check(self):
        kinds = [step.kind for step in self.steps]
        last_up = max((i for i, kind in enumerate(kinds) if kind == "up"), default=-1)
        for index, step in enumerate(self.steps):
            if step.kind == "learned" and index:
                raise ValueError(f"step {index + 1} (learned) must be the first of the recipe")
            if step.kind != "down":
                continue
            if index > last_up:
                raise ValueError(
                    f"step {index + 1} (down) is not followed by an up step, so the degraded face "
                    f"would not have {self.size} px"
                )
            if step.factor is not None and self.size / step.factor[1] < 1:
                raise ValueError(f"factor {step.factor[1]:g} leaves nothing of {self.size} px")
            if "pulse_bicubic" in step.filters:
                factor = int(step.factor[0])
                if "down" in kinds[:index]:
                    raise ValueError("pulse_bicubic must be the first down step")
                check_pulse_factor(self.size, factor)
        return self


def check_pulse_factor(side: int, factor: int) -> None:
    """Raise ValueError unless pulse_bicubic can shrink `side` by `factor`.

    An odd factor would shift the picture by half a pixel; the reflected border of 1.5 * factor
    pixels must fit into the picture.
    """
    if factor < 2 or factor % 2 or side % factor or 3 * factor // 2 >= side:
        raise ValueError(
            f"pulse_bicubic needs an even factor that divides the side and is below 2/3 of it, "
            f"got factor {factor}, side {side}"
        )


def jpeg_quality(compression: float) -> int:
    """imgaug's compression 0..100 (higher is worse) -> libjpeg quality 1..100; 10 -> 90, 65 -> 36.

    Raises ValueError outside 0..100.
    """
    if not 0 <= compression <= 100:
        raise ValueError(f"compression must be in [0, 100], got {compression}")
    return round(1 + 99 * (1 - compression / 101))
