"""FFHQ's face alignment with a crop of any size: landmarks -> square -> aligned face.

Formula: supplement C of Karras et al., "A Style-Based Generator Architecture for GANs" (2019,
https://arxiv.org/abs/1812.04948), generalised by crop_scale (side of the crop in units of FFHQ's)
and crop_shift (how far below the eyes its centre lies, in eye-to-mouth distances; FFHQ: 0.1).

Coordinates are (x, y) in pixels and whole numbers are pixel centres, in photographs as well as in
aligned faces. A transform is the 2 x 3 matrix photograph -> aligned face: turn, scale and shift.

Where we differ from FFHQ's script: the photograph is sampled as densely as its own pixels ask for,
not always at four times the face's size; bicubic, not bilinear (small faces stay sharp); and only
invented pixels are blurred at the photograph's border, never real ones (the face goes back into the
photograph).
"""

import cv2
import numpy as np
from PIL import Image, ImageFilter, ImageStat

# Photograph pixels per aligned pixel. Above the first the photograph is reduced to it. Below the
# second one sample a pixel is enough; between them 2 x 2 are. A whole number would put all samples
# at one phase between the pixels, where OpenCV's cubic is off by up to 0.05 px; else that cancels.
DENSEST = 1.8
ONE_SAMPLE = 0.8


def eyes_and_mouth(landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """68 landmarks -> centres of image-left eye, image-right eye, middle of the mouth's corners."""
    landmarks = _check(landmarks)
    left, right = landmarks[36:42].mean(axis=0), landmarks[42:48].mean(axis=0)
    return left, right, (landmarks[48] + landmarks[54]) / 2


def crop_square(
    landmarks: np.ndarray, crop_scale: float = 1.0, crop_shift: float = 0.1
) -> np.ndarray:
    """68 landmarks (photograph pixels) -> corners 4 x 2: top left, bottom left, bottom right, top
    right of the crop in the photograph. Raises ValueError when all points coincide."""
    left, right, mouth = eyes_and_mouth(landmarks)
    eyes = (left + right) / 2
    across, down = right - left, mouth - eyes
    # the mean of both directions, so that a face turned aside is not rolled
    direction = across + np.array([down[1], -down[0]])
    length = np.hypot(*direction)
    if length == 0:
        raise ValueError("landmarks coincide: no direction of the face")
    half = max(2.0 * np.hypot(*across), 1.8 * np.hypot(*down)) * crop_scale
    x = direction / length * half
    y = np.array([-x[1], x[0]])
    centre = eyes + crop_shift * down
    return np.stack([centre - x - y, centre - x + y, centre + x + y, centre + x - y])


def square_transform(square: np.ndarray, size: int) -> np.ndarray:
    """Corners of a crop -> transform 2 x 3 onto a face of `size` px.

    The corners are the outer edges of the aligned face, half a pixel outside its pixel centres.
    """
    x = square[3] - square[0]
    scale = size / (x @ x)
    linear = scale * np.array([[x[0], x[1]], [-x[1], x[0]]])
    return np.column_stack([linear, -0.5 - linear @ square[0]])


def invert_transform(transform: np.ndarray) -> np.ndarray:
    """Transform 2 x 3 aligned face -> photograph."""
    linear = np.linalg.inv(transform[:, :2])
    return np.column_stack([linear, -linear @ transform[:, 2]])


def apply_transform(transform: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points ... x 2 moved by a transform 2 x 3."""
    return points @ transform[:, :2].T + transform[:, 2]


def yaw(landmarks: np.ndarray) -> float:
    """How far a face is turned aside: 0 frontal, about 1 profile, positive towards image right.

    Along the line of the eyes, (b - a) / (a + b) for the distances a, b from the nose's tip to the
    left and to the right, once to the eyes' outer corners and once to the jaw; the larger counts.
    A proxy: not an angle, and never checked against measured poses.
    """
    landmarks = _check(landmarks)
    left, right, _ = eyes_and_mouth(landmarks)
    line = (right - left) / max(np.hypot(*(right - left)), 1e-9)
    along = landmarks @ line
    values = []
    for i, j in ((36, 45), (2, 14)):
        a, b = along[30] - along[i], along[j] - along[30]
        values.append((a - b) / max(a + b, 1e-9))
    return float(np.clip(max(values, key=abs), -1, 1))


def outside_share(square: np.ndarray, width: int, height: int) -> float:
    """Share (0..1) of the crop's area that lies outside a photograph of width x height."""
    grid = (np.arange(128) + 0.5) / 128
    across, down = np.outer(square[3] - square[0], grid), np.outer(square[1] - square[0], grid)
    x, y = square[0][:, None, None] + across[:, None] + down[..., None]
    inside = (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)
    return float(1 - inside.mean())


def warp(image: Image.Image, square: np.ndarray, size: int) -> np.ndarray:
    """Cut the square out of an RGB photograph -> uint8 size x size x 3.

    Free of aliasing at any scale and turn: large crops are reduced first, and where the photograph
    holds detail that the face cannot, it is sampled at 2 x `size` and reduced, both by Lanczos.
    What lies outside the photograph is its reflection, fading into blur and into the median colour.
    """
    square = square + 0.5  # edges instead of centres: Pillow's convention
    image, square = _crop(image, square)
    image, square = _reduce(image, square, size)
    image, square = _pad(image, square)

    x, y = (square[3] - square[0]) / size, (square[1] - square[0]) / size
    # the photograph's finest detail lies along its diagonals, so its turn counts
    samples = 1 if max(np.abs(x).sum(), np.abs(y).sum()) <= ONE_SAMPLE else 2
    step = np.column_stack([x, y]) / samples
    first = square[0] + step.sum(axis=1) / 2 - 0.5  # OpenCV counts from pixel centres
    face = _sample(np.asarray(image), np.column_stack([step, first]), size * samples)
    if samples == 1:
        return face
    return np.asarray(Image.fromarray(face).resize((size, size), Image.Resampling.LANCZOS))


def _sample(pixels, transform, size):
    """Bicubic samples of uint8 H x W x 3 at the places `transform` (2 x 3) gives a size x size grid
    of pixels; the edges are repeated."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # a job has as many processes as cores: threads would only get in the way
    try:
        return cv2.warpAffine(
            pixels,
            transform,
            (size, size),
            flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
    finally:
        cv2.setNumThreads(threads)


def _side(square):
    return float(np.hypot(*(square[3] - square[0])))


def _crop(image, square):
    """Leave out what the square does not need; a group photograph is much larger than one face."""
    border = max(round(0.1 * _side(square)), 8)
    low = np.maximum(np.floor(square.min(axis=0)).astype(int) - border, 0)
    high = np.ceil(square.max(axis=0)).astype(int) + border
    high = np.minimum(high, image.size)
    if (high <= low).any():
        raise ValueError("the crop lies outside the photograph")
    return image.crop((*low, *high)), square - low


def _reduce(image, square, size):
    """Reduce an image with more than DENSEST pixels per pixel of the face."""
    factor = _side(square) / size / DENSEST
    if factor <= 1:
        return image, square
    reduced = (max(1, round(image.width / factor)), max(1, round(image.height / factor)))
    # Lanczos keeps the whole image, so each axis has its own exact factor
    square = square * (np.array(reduced) / np.array(image.size))
    return image.resize(reduced, Image.Resampling.LANCZOS), square


def _pad(image, square):
    """Continue the image where the square leaves it."""
    if (square >= 0).all() and (square <= image.size).all():
        return image, square
    side = _side(square)
    low = np.maximum(np.ceil(-square.min(axis=0)).astype(int) + 2, 0)
    high = np.maximum(np.ceil(square.max(axis=0) - image.size).astype(int) + 2, 0)
    pads = ((low[1], high[1]), (low[0], high[0]), (0, 0))
    padded = Image.fromarray(np.pad(np.asarray(image), pads, mode="symmetric"))
    # distance of each invented column and row from the photograph; 0 for real ones
    away = [
        np.concatenate([np.arange(before, 0, -1), np.zeros(real), np.arange(1, after + 1)]) / side
        for before, real, after in zip(low, image.size, high)
    ]

    def fade(near, far, start, end):
        weights = [np.clip((d - start) / (end - start), 0, 1) for d in away]
        columns, rows = (np.uint8(np.round(255 * weight)) for weight in weights)
        return Image.composite(far, near, Image.fromarray(np.maximum.outer(rows, columns)))

    blurred = padded.filter(ImageFilter.GaussianBlur(max(0.02 * side, 0.5)))
    median = Image.new("RGB", padded.size, tuple(ImageStat.Stat(image).median))
    return fade(fade(padded, blurred, 0, 0.05), median, 0.03, 0.33), square + low


def _check(landmarks):
    landmarks = np.asarray(landmarks, dtype=np.float64)
    if landmarks.shape != (68, 2) or not np.isfinite(landmarks).all():
        raise ValueError(f"expected 68 x 2 finite landmarks, got shape {landmarks.shape}")
    return landmarks
