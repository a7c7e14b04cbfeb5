"""Steps of a degradation: a class a step, its fields and how they are drawn. Imports no torch."""

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict, model_validator

if TYPE_CHECKING:
    import numpy as np


RESIZE_FILTERS = ("nearest", "bilinear", "area", "bicubic", "pulse_bicubic")


def ordered(value: tuple) -> tuple:
    if value[0] > value[1]:
        raise ValueError(f"a range is [low, high] with low <= high, got {list(value)}")
    return value


# YAML has lists where the models have tuples, hence the lax outer type around strict numbers
Range = Annotated[tuple[float, float], Strict(False), AfterValidator(ordered)]
IntRange = Annotated[tuple[int, int], Strict(False), AfterValidator(ordered)]
Probability = Annotated[float, Field(ge=0, le=1)]


def different(items: tuple) -> tuple:
    """`items` themselves; ValueError where one is there twice."""
    for place, item in enumerate(items):
        if item in items[:place]:
            raise ValueError(f"{str(item)!r} is named twice")
    return items


def within(name: str, value: tuple | None, low: float, high: float) -> None:
    """Raise ValueError unless the range `value` lies in [low, high]."""
    assert value is not None
    if value[0] < low or value[1] > high:
        raise ValueError(f"{name} must lie in [{low:g}, {high:g}], got {list(value)}")


def uniform(rng: "np.random.Generator", low_high: tuple[float, float]) -> float:
    # six digits: readable in the table, and the table holds exactly what was used
    return round(float(rng.uniform(*low_high)), 6)


def integer(rng: "np.random.Generator", low_high: tuple[int, int]) -> int:
    return int(rng.integers(low_high[0], low_high[1] + 1))


class StepModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class GaussianBlur(StepModel):
    """Round Gaussian. `kernel_px`: odd side of the kernel, or a rule that derives it from sigma:
    imgaug (3.3, 2.9 or 2.6 sigma, at least 5) or three_sigma (2*ceil(3 sigma) + 1)."""

    shape: Literal["gaussian"]
    sigma_px: Range
    kernel_px: int | Literal["imgaug", "three_sigma"] = "three_sigma"

    @model_validator(mode="after")
    def _check(self):
        within("sigma_px", self.sigma_px, 0, 100)
        _odd_kernel(self.kernel_px)
        return self

    def draw(self, rng: "np.random.Generator") -> dict:
        """{"sigma_px", "kernel_px"}."""
        sigma = uniform(rng, self.sigma_px)
        return {"sigma_px": sigma, "kernel_px": gaussian_kernel_px(sigma, self.kernel_px)}


class AnisotropicBlur(StepModel):
    """Gaussian with two independent widths, turned by an angle uniform in [-pi, pi]."""

    shape: Literal["anisotropic"]
    sigma_px: Range
    kernel_px: int

    @model_validator(mode="after")
    def _check(self):
        within("sigma_px", self.sigma_px, 0, 100)
        _odd_kernel(self.kernel_px)
        return self

    def draw(self, rng: "np.random.Generator") -> dict:
        """{"sigma_px", "sigma_y_px", "angle_rad", "kernel_px"}."""
        return {
            "sigma_px": uniform(rng, self.sigma_px),
            "sigma_y_px": uniform(rng, self.sigma_px),
            "angle_rad": uniform(rng, (-math.pi, math.pi)),
            "kernel_px": self.kernel_px,
        }


class BoxBlur(StepModel):
    """Mean over a square; an even side leans half a pixel to the upper left, as in OpenCV."""

    shape: Literal["box"]
    side_px: IntRange

    @model_validator(mode="after")
    def _check(self):
        within("side_px", self.side_px, 1, 99)
        return self

    def draw(self, rng: "np.random.Generator") -> dict:
        """{"kernel_px"}."""
        return {"kernel_px": integer(rng, self.side_px)}


class MedianBlur(StepModel):
    """Median of a square per channel; an even draw is made odd by adding one."""

    shape: Literal["median"]
    side_px: IntRange

    @model_validator(mode="after")
    def _check(self):
        within("side_px", self.side_px, 1, 99)
        return self

    def draw(self, rng: "np.random.Generator") -> dict:
        """{"kernel_px"}, odd."""
        return {"kernel_px": integer(rng, self.side_px) // 2 * 2 + 1}


class MotionBlur(StepModel):
    """A line whose weights go linearly from d to 1-d, turned by an angle uniform in [0, 360)."""

    shape: Literal["motion"]
    side_px: IntRange
    direction: Range = (-1.0, 1.0)

    @model_validator(mode="after")
    def _check(self):
        within("side_px", self.side_px, 3, 99)
        within("direction", self.direction, -1, 1)
        return self

    def draw(self, rng: "np.random.Generator") -> dict:
        """{"kernel_px" (odd), "angle_deg", "direction"}."""
        return {
            "kernel_px": integer(rng, self.side_px) // 2 * 2 + 1,
            "angle_deg": uniform(rng, (0.0, 360.0)),
            "direction": uniform(rng, self.direction),
        }


def _odd_kernel(kernel_px: int | str) -> None:
    if isinstance(kernel_px, int) and (not 1 <= kernel_px < 1000 or kernel_px % 2 == 0):
        raise ValueError(f"kernel_px must be odd, positive and below 1000, got {kernel_px}")


def gaussian_kernel_px(sigma_px: float, rule: int | str) -> int:
    """Odd kernel side: `rule` itself if a number, else imgaug's or the three-sigma rule.

    Raises ValueError for another rule.
    """
    if isinstance(rule, int):
        return rule
    if rule == "three_sigma":
        return 2 * math.ceil(3 * sigma_px) + 1
    if rule == "imgaug":
        width = 3.3 if sigma_px < 3 else 2.9 if sigma_px < 5 else 2.6
        return int(max(width * sigma_px, 5)) // 2 * 2 + 1
    raise ValueError(f"unknown kernel rule {rule!r}; known: a number, imgaug, three_sigma")


BlurChoice = Annotated[
    GaussianBlur | AnisotropicBlur | BoxBlur | MedianBlur | MotionBlur,
    Field(discriminator="shape"),
]


class BaseStep(StepModel):
    """What may happen with probability `p`. A subclass has a `kind` and a `draw`."""

    p: Probability = 1.0

    def draw(self, rng: "np.random.Generator", side: int, for_test: bool) -> dict | None:
        """Parameters of one image, plain numbers and text; None: it does not happen to this one.

        side: of the face before this step, pixels. for_test: for a test set, see `degrade.draw`.
        All randomness comes from `rng`; what does not happen draws nothing.
        """
        raise NotImplementedError

    def side_after(self, side: int, drawn: dict, size: int) -> int:
        """Side of the face after this step; `size` is the recipe's. Most steps leave it alone."""
        return side

    def summary(self, drawn: dict) -> dict:
        """What a test set's table tells of a draw, by column of `degrade.COLUMNS`."""
        return {}


class Learned(BaseStep):
    """A generated pair takes the photograph's place: `model` is a trained degradation model.

    Its clean face becomes the truth; `image` says which of the two goes on down the chain. The
    latent is drawn with `truncation`. Only the first step of a recipe can be one.
    """

    kind: Literal["learned"]
    p: Literal[1.0] = 1.0  # type: ignore[valid-type]  # pydantic takes any value
    model: str = Field(min_length=1)
    truncation: float = Field(0.8, gt=0, le=1)
    image: Literal["degraded", "clean"] = "degraded"

    def draw(self, rng, side, for_test):
        """{"seed"}: of the pair."""
        return {"seed": int(rng.integers(2**48))}


class Gray(BaseStep):
    """Luma (BT.601) in all channels. `both`: the truth of the pair becomes grey too."""

    kind: Literal["gray"]
    both: bool = False

    def draw(self, rng, side, for_test):
        """{"both"}; None where it would change the truth of a test set."""
        return None if self.both and for_test else {"both": self.both}


class Blur(BaseStep):
    """One of `choices`, each equally likely."""

    kind: Literal["blur"]
    choices: Annotated[
        tuple[BlurChoice, ...], Strict(False), Field(min_length=1), AfterValidator(different)
    ]

    def draw(self, rng, side, for_test):
        """{"shape"} and what the shape draws."""
        choice = self.choices[int(rng.integers(len(self.choices)))]
        return {"shape": choice.shape, **choice.draw(rng)}

    def summary(self, drawn):
        sigma = drawn.get("sigma_px")
        size = f"kernel {drawn['kernel_px']}" if sigma is None else f"sigma {sigma:.3g}"
        return {"blur": f"{drawn['shape']} {size}"}


class Down(BaseStep):
    """Shrink to a side drawn from `side_px`, or to floor(side / r) with r from `factor`.

    `antialias` widens bilinear and bicubic by the factor, as Pillow does (cubic a = -0.5); without
    it they look at 2 or 4 pixels only, as OpenCV does (cubic a = -0.75). nearest and area take no
    heed of it. pulse_bicubic is the operator of PULSE and SAIR: anti-aliased cubic with reflected
    border, for even whole factors.
    """

    kind: Literal["down"]
    side_px: IntRange | None = None
    factor: Range | None = None
    filters: Annotated[
        tuple[Literal[RESIZE_FILTERS], ...],  # type: ignore[valid-type]
        Strict(False),
        Field(min_length=1),
        AfterValidator(different),
    ]
    antialias: bool = False

    @model_validator(mode="after")
    def _check(self):
        if (self.side_px is None) == (self.factor is None):
            raise ValueError("down needs either side_px or factor, and not both")
        if self.side_px is not None:
            within("side_px", self.side_px, 1, 4096)
        else:
            within("factor", self.factor, 0.25, 256)
        if "pulse_bicubic" in self.filters:
            low, high = self.factor or (0.0, 1.0)
            if low != high or low % 2:
                raise ValueError(
                    "pulse_bicubic needs one even whole factor, e.g. [8, 8], "
                    f"got factor {self.factor and list(self.factor)}"
                )
        return self

    def draw(self, rng, side, for_test):
        """{"side_px", "filter", "antialias"}."""
        if self.side_px is not None:
            target = integer(rng, self.side_px)
        else:
            target = max(1, math.floor(side / uniform(rng, self.factor or (1, 1))))
        chosen = self.filters[int(rng.integers(len(self.filters)))]
        return {"side_px": target, "filter": chosen, "antialias": self.antialias}

    def side_after(self, side, drawn, size):
        return drawn["side_px"]

    def summary(self, drawn):
        return {"side_px": drawn["side_px"], "filter": drawn["filter"]}


class Noise(BaseStep):
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
            within("std_255", self.std_255, 0, 255)
        else:
            within("variance", self.variance, 0, 1)
        return self

    def draw(self, rng, side, for_test):
        """{"std_255", "per_channel"}."""
        if self.std_255 is not None:
            std = uniform(rng, self.std_255)
        else:
            std = round(255 * math.sqrt(float(rng.uniform(*(self.variance or ())))), 6)
        return {"std_255": std, "per_channel": bool(rng.random() < self.per_channel)}

    def summary(self, drawn):
        return {"noise_std_255": round(drawn["std_255"], 2)}


class Jpeg(BaseStep):
    """JPEG encode and decode at the side reached so far.

    Either `quality` (libjpeg's, whole number 1..100) or `compression` (imgaug's, 0..100, higher is
    worse; see `jpeg_quality`). Faces smaller than `min_side_px` are left alone.
    """

    kind: Literal["jpeg"]
    quality: IntRange | None = None
    compression: Range | None = None
    subsampling: Literal["4:2:0", "4:4:4"] = "4:2:0"
    min_side_px: int = Field(1, ge=1, le=4096)

    @model_validator(mode="after")
    def _check(self):
        if (self.quality is None) == (self.compression is None):
            raise ValueError("jpeg needs either quality or compression, and not both")
        if self.quality is not None:
            within("quality", self.quality, 1, 100)
        else:
            within("compression", self.compression, 0, 100)
        return self

    def draw(self, rng, side, for_test):
        """{"quality"}: libjpeg's, 1..100; None for a face that is too small."""
        if side < self.min_side_px:
            return None
        if self.quality is not None:
            return {"quality": integer(rng, self.quality)}
        return {"quality": jpeg_quality(uniform(rng, self.compression or (0, 0)))}

    def summary(self, drawn):
        return {"jpeg_quality": drawn["quality"]}


class Up(BaseStep):
    """Enlarge (or shrink) to the recipe's `size`; `antialias` as in `Down`."""

    kind: Literal["up"]
    p: Literal[1.0] = 1.0  # type: ignore[valid-type]  # pydantic takes any value
    filter: Literal["nearest", "bilinear", "area", "bicubic"]
    antialias: bool = False

    def draw(self, rng, side, for_test):
        """{"filter", "antialias"}: nothing is left to chance."""
        return {"filter": self.filter, "antialias": self.antialias}

    def side_after(self, side, drawn, size):
        return size


class ColourShift(BaseStep):
    """Add one number per channel, drawn from `shift_255`; clip. The truth is untouched."""

    kind: Literal["colour_shift"]
    shift_255: Range

    @model_validator(mode="after")
    def _check(self):
        within("shift_255", self.shift_255, -255, 255)
        return self

    def draw(self, rng, side, for_test):
        """{"shift_255": one number per channel}."""
        return {"shift_255": [uniform(rng, self.shift_255) for _ in range(3)]}


class Jitter(BaseStep):
    """Brightness, contrast, saturation (factors) and hue (turns) in random order; clip after each.

    `both`: the truth is changed alike, for more varied faces; else it is untouched.
    """

    kind: Literal["jitter"]
    brightness: Range = (1.0, 1.0)
    contrast: Range = (1.0, 1.0)
    saturation: Range = (1.0, 1.0)
    hue: Range = (0.0, 0.0)
    both: bool = False

    @model_validator(mode="after")
    def _check(self):
        for name in ("brightness", "contrast", "saturation"):
            within(name, getattr(self, name), 0, 10)
        within("hue", self.hue, -0.5, 0.5)
        return self

    def draw(self, rng, side, for_test):
        """{"brightness", "contrast", "saturation", "hue", "order": these names}."""
        names = ("brightness", "contrast", "saturation", "hue")
        drawn: dict = {name: uniform(rng, getattr(self, name)) for name in names}
        drawn["order"] = [names[i] for i in rng.permutation(len(names))]
        return drawn


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
