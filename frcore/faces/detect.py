"""Faces and their 68 landmarks in a photograph, with dlib.

The landmark model was trained on iBUG 300-W, whose terms exclude commercial use.
"""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from frcore.faces import sources
from frcore.io.decode import BadImage
from frcore.io.glance import glance

LANDMARKS_FILE = "dlib_68/shape_predictor_68_face_landmarks.dat"
MMOD_FILE = "dlib_mmod/mmod_human_face_detector.dat"
MAX_SIDE = 1600  # px; larger photographs are reduced to it before `enlarge`
LANDMARK_FACE = 300  # px; width of the face in the view that the landmarks are looked for in


@dataclass(frozen=True)
class Detector:
    """What find_faces needs; made by load_detector."""

    kind: str
    detect: Any
    predict: Any


@dataclass(frozen=True)
class Face:
    """One face; lengths in photograph pixels, whole numbers are pixel centres.

    box: x0, y0, x1, y1 of the detection. score: the detector's, comparable within one kind only.
    landmarks: float64 68 x 2 in the order of iBUG 300-W.
    """

    box: tuple[float, float, float, float]
    score: float
    landmarks: np.ndarray

    @property
    def width(self) -> float:
        """Width of the box."""
        return self.box[2] - self.box[0]

    @property
    def area(self) -> float:
        """Area of the box."""
        return self.width * (self.box[3] - self.box[1])


@functools.lru_cache(maxsize=2)
def load_detector(kind: str, assets: str | Path) -> Detector:
    """Detector `hog` (fast, frontal, faces from 80 px) or `mmod` (network, slower) with landmarks.

    `assets` is the cache root. Raises ValueError for another kind, FileNotFoundError for a missing
    file.
    """
    import dlib

    if kind not in ("hog", "mmod"):
        raise ValueError(f"detector must be hog or mmod, got {kind!r}")
    files = [LANDMARKS_FILE] + ([MMOD_FILE] if kind == "mmod" else [])
    for name in files:
        if not (Path(assets) / name).is_file():
            raise FileNotFoundError(f"no detector file: {Path(assets) / name}")
    predict = dlib.shape_predictor(str(Path(assets) / LANDMARKS_FILE))
    if kind == "hog":
        return Detector(kind, dlib.get_frontal_face_detector(), predict)
    return Detector(kind, dlib.cnn_face_detection_model_v1(str(Path(assets) / MMOD_FILE)), predict)


def find_faces(image: Image.Image, detector: Detector, enlarge: int = 1) -> list[Face]:
    """All faces of an RGB photograph, from left to right, then from top to bottom.

    For the detection a photograph is reduced to 1600 px on its longer side where it is larger, and
    then enlarged `enlarge` times (bicubic): with 1, faces below about a twentieth of that side are
    not found. The landmarks are looked for at a scale where the face is about 300 px wide.
    """
    scale = enlarge * min(1.0, MAX_SIDE / max(image.size))
    pixels = _resized(image, scale)
    faces = []
    for rectangle, score in _detect(detector, pixels):
        box = np.array(
            [rectangle.left(), rectangle.top(), rectangle.right(), rectangle.bottom()], dtype=float
        )
        box = _to_photo(box.reshape(2, 2), (0, 0), image, pixels).ravel()
        landmarks = _landmarks(image, pixels, scale, rectangle, box, detector, enlarge)
        faces.append(Face(tuple(box.tolist()), float(score), landmarks))
    return sorted(faces, key=lambda face: face.box)


def shows_no_face(photo: sources.Photo, detector: Detector, enlarge: int = 1) -> bool:
    """Whether a large photograph shows no face: seen without reading it as a whole.

    False for any other photograph, and for one that cannot be read.
    """
    try:
        sources.check(photo)
    except BadImage:
        return False
    view = glance(photo.path, MAX_SIDE)
    return view is not None and not find_faces(view, detector, enlarge)


def _detect(detector, pixels):
    if detector.kind == "hog":
        rectangles, scores, _ = detector.detect.run(pixels, 0, 0.0)
        return list(zip(rectangles, scores, strict=True))
    return [(found.rect, found.confidence) for found in detector.detect(pixels, 0)]


def _landmarks(image, pixels, scale, rectangle, box, detector, enlarge):
    """68 x 2 photograph pixels, looked for in a view of the face that is neither small nor grainy:
    the model compares single pixels, so grain and printing dots of a large face mislead it."""
    import dlib

    width = max(box[2] - box[0], 1.0)
    wanted = min(enlarge, LANDMARK_FACE / width)
    if scale / 1.6 <= wanted <= scale * 1.05:  # the detection's view is good enough
        shape = detector.predict(pixels, rectangle)
        points = np.array([(point.x, point.y) for point in shape.parts()], dtype=float)
        return _to_photo(points, (0, 0), image, pixels)
    # the model looks at little beyond the box; half a width more on each side holds it all
    x0, y0 = (max(0, int(v - width / 2)) for v in box[:2])
    x1 = min(image.width, int(box[2] + width / 2) + 1)
    y1 = min(image.height, int(box[3] + width / 2) + 1)
    part = image.crop((x0, y0, x1, y1))
    view = _resized(part, wanted)
    factor = np.array([view.shape[1] / part.width, view.shape[0] / part.height])
    corners = (box.reshape(2, 2) - (x0, y0) + 0.5) * factor - 0.5
    shape = detector.predict(view, dlib.rectangle(*(round(v) for v in corners.ravel())))
    points = np.array([(point.x, point.y) for point in shape.parts()], dtype=float)
    return _to_photo(points, (x0, y0), part, view)


def _resized(image, scale):
    if scale == 1:
        return np.asarray(image)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC))


def _to_photo(points, origin, image, pixels):
    """Points N x 2 of a resized view -> photograph; a resized view's sides are whole numbers, so
    each axis has its own factor."""
    factor = np.array([pixels.shape[1] / image.width, pixels.shape[0] / image.height])
    return (points + 0.5) / factor - 0.5 + np.array(origin)
