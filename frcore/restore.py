"""Faces -> restored faces, and photographs -> restored photographs.

A face that could not be restored has a row with the reason and no image: nothing is passed off as
restored. Photographs: detect, align, restore, paste back; frcore/faces has the parts.

N batch, C channels, H height, W width, S side of an aligned face.
"""

import csv
import hashlib
import io
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from PIL import Image, ImageOps

from frcore import checkpoint
from frcore.assets import present
from frcore.cards import differences
from frcore.config import ROOT, Config, ConfigError, Model, load_settings, project_file
from frcore.device import pick_device
from frcore.facebatch import Faces, resized, sides_note, sides_of
from frcore.faces import align, detect, paste, sources
from frcore.faces.build import face_files
from frcore.guide import build, frozen, load_guide
from frcore.images import (
    BadImage,
    atomic_output,
    read_image,
    read_photo,
    to_float,
    to_uint8,
    write_image,
)
from frcore.recipes import Recipe
from frcore.registry import METHODS, load_method, nearest
from frcore.seeds import torch_generator
from frcore.tables import write_table

STATUS_COLUMNS = ("id", "status", "reason")
PHOTO_COLUMNS = (
    "photo", "face", "status", "reason", "box", "id_distance", "output", "note",
)  # fmt: skip
# besides, where a face is restored more than once
SAMPLE_COLUMNS = ("samples", "sample_rms_255", "sample_std_max_255")
CUT_OFF = "cut off while it was written"  # reason in the record of an unfinished photograph
# formats that are written as they came; others become PNG
_WRITTEN = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}
# description, maker, model, resolution, software, date, artist, rating, copyright, and the EXIF and
# GPS parts; not orientation, for the pixels are turned
_EXIF_KEPT = {270, 271, 272, 282, 283, 296, 305, 306, 315, 18246, 33432, 0x8769, 0x8825}
_OTHER_PERSON = 0.6  # dlib's threshold on the distance of two descriptors


class RestoreError(ValueError):
    """A model that cannot be had, or faces that could not be restored; one line."""


@dataclass
class Restorer:
    """A method ready to restore: frozen net, the nets that it leans on, and card.

    size, crop_scale, crop_shift: the frame of the aligned faces it was trained on.
    digest: changes with anything that changes a result.
    """

    name: str
    module: ModuleType
    model: torch.nn.Module
    device: torch.device
    card: dict
    digest: str
    guide: dict = field(default_factory=dict)
    path: Path | None = None
    recipe: Recipe | None = None  # what made the faces worse, for a method that is told

    @property
    def size(self) -> int:
        """Side of the aligned faces, pixels."""
        return int(self.card.get("size") or self.card["settings"].get("size") or 64)

    @property
    def crop(self) -> tuple[float, float]:
        """crop_scale and crop_shift of the aligned faces."""
        return float(self.card.get("crop_scale", 1.0)), float(self.card.get("crop_shift", 0.1))

    @property
    def sides(self) -> tuple[int, int] | None:
        """(side that the net takes, side that it gives), where they are not the faces'."""
        return sides_of(self.module, self.model.settings)

    @property
    def stochastic(self) -> bool:
        """Whether a face has more than one restoration."""
        row = METHODS[self.card["method"]]
        return row.stochastic and self.card["settings"].get("stochastic", True)


# ---- models


def load_model(
    name_or_path: str | Path,
    device: str | torch.device = "cpu",
    config: Config | None = None,
    helpers: Mapping[str, str | Path] | None = None,
    root: str | Path = ROOT,
    results: str | Path = "results",
    assets: Mapping[str, str | Path] | None = None,
) -> Restorer:
    """A frozen model by name or from a weights file.

    A name is looked up as `weights:` of its entry in `config`, then in {root}/weights/, then as
    {results}/models/NAME/weights.safetensors; methods that are not trained need no file.
    `helpers` {role: weights file} replaces the helper entries that the card, or the entry of
    `config`, names; those are looked up beside the file first. assets: {asset: file} of the
    pretrained parts that some methods restore with; default: those in `resources` here.
    Raises RestoreError naming what exists, where it was looked for, or settings of the entry that
    the weights were not trained with; WeightsError for a file that does not fit.
    """
    name = str(name_or_path)
    path = find_weights(name_or_path, config, root, results)
    entry = config.models.get(name) if config is not None else None
    if path is None:
        method, settings, frame = _untrained(name, config, root, results)
        card = {"name": name, "method": method, "settings": settings, **frame}
        named = {role: settings.get(role) for role in METHODS[method].helpers}
    else:
        card = checkpoint.read_card(path)
        named = {
            role: card.get("helpers", {}).get(role) for role in METHODS[card["method"]].helpers
        }
        if entry is not None and entry.weights:
            wrong = differences(card, entry.method, entry.settings)
            if wrong:
                raise RestoreError(f"models.{name}.{wrong[0]}: leave it out or write the same")
    found: dict[str, Path] = {}
    for role, helper in {**named, **(helpers or {})}.items():
        if helper is None or role not in METHODS[card["method"]].helpers:
            continue
        place = _beside(path, str(helper)) if path else None
        place = place or find_weights(helper, config, root, results)
        if place is None:
            looked = " or ".join(str(place) for place in _places(str(helper), root, results))
            raise RestoreError(f"{name} needs the helper {role}: {helper!r} has no weights yet: "
                               f"looked for {looked}")  # fmt: skip
        found[role] = place
    _check_reference(card["method"], name)
    own = name if entry is not None or path is None else card.get("name") or path.stem
    return assemble(own, card, path, found, assets, device)


def assemble(
    name: str,
    card: Mapping,
    path: str | Path | None,
    helpers: Mapping[str, str | Path],
    assets: Mapping[str, str | Path] | None = None,
    device: str | torch.device = "cpu",
    recipe: Recipe | None = None,
) -> Restorer:
    """The one way to a Restorer, for trained and untrained methods alike.

    card: method and settings, and size, crop_scale, crop_shift where they are known. path: weights
    file, None for a method that is not trained. helpers: {role: weights file}. assets: {asset:
    file}; None: those in `resources` here. Raises RestoreError for a part that is not there,
    ConfigError for settings, WeightsError for a file that does not fit.
    """
    device, method = torch.device(device), card["method"]
    module, networks = load_method(method), {}
    where = f"models.{name}.settings." if path is None else f"{path}: "
    if path is not None:
        networks, _ = checkpoint.load_weights(path)
    elif METHODS[method].trained:
        raise RestoreError(f"method {method} is trained and needs a weights file")
    settings = load_settings(module.Settings, card["settings"], where)
    model = build(module, settings)
    if path is not None:
        checkpoint.load_strict(model, networks["model"], str(path))
    wanted = METHODS[method].parts(settings.model_dump(), training=False)
    there = (present("resources") if assets is None else assets) if wanted else {}
    for part, asset in wanted.items():
        if asset not in there:
            get = f"`frcore weights fetch {asset}`"
            raise RestoreError(f"{name} needs the pretrained part {part}: {get}")
    guide = load_guide(method, settings, helpers, there, device)
    card = {**card, "name": name, "settings": settings.model_dump()}
    digest = hashlib.sha256(json.dumps(card, sort_keys=True, default=list).encode())
    for file in (path, *helpers.values(), *(there[asset] for asset in wanted.values())):
        digest.update(checkpoint.file_digest(file).encode() if file else b"")
    model.to(device).eval().requires_grad_(False)
    path = None if path is None else Path(path)
    return Restorer(name, module, model, device, card, digest.hexdigest(), guide, path, recipe)


def load_entry(
    name: str,
    entry: Model,
    weights: Mapping[str, str | Path],
    frame: Mapping,
    assets: Mapping[str, str | Path],
    device: str | torch.device,
    recipe: Recipe | None = None,
) -> Restorer:
    """An entry of the workflow under its own name.

    weights: {entry: file}, of its helpers too. frame: size, crop_scale, crop_shift of the faces.
    assets: {name in METHOD: file}.
    """
    row = METHODS[entry.method]
    path = weights.get(name)
    if path is None:
        card = {"method": entry.method, "settings": entry.settings, **frame}
    else:
        card = checkpoint.read_card(path)
        wrong = differences(card, entry.method, entry.settings)
        if wrong:
            raise RestoreError(f"models.{name}.{wrong[0]}: leave it out or write the same")
    named = {role: entry.settings.get(role, card["settings"].get(role)) for role in row.helpers}
    helpers = {role: weights[helper] for role, helper in named.items() if helper in weights}
    files = {asset: assets[n] for n, asset in row.parts(card["settings"], False).items()}
    return assemble(name, card, path, helpers, files, device, recipe)


def predict_parsing(
    weights: str | Path, table: str | Path, faces: str | Path, out: str | Path, device="auto"
) -> None:
    """Parsing maps {id}.png of the faces in `table`, predicted by the trained parser `weights`."""
    from frcore.helpers.parsing import predict_labels

    networks, card = checkpoint.load_weights(weights)
    device = pick_device(device)
    parser = frozen(networks, card, "model", weights, device)
    with atomic_output(out, folder=True) as part:
        for name, path in face_files(table, faces):
            image = to_float(read_image(path)).to(device)
            labels = predict_labels(parser, image)[0].to(torch.uint8).cpu().numpy()
            write_image(part / f"{name}.png", labels)


def without_weights(
    name: str, method: str, settings: Mapping, device: str | torch.device = "cpu", **frame
) -> Restorer:
    """A method that is not trained. `frame`: size, crop_scale, crop_shift of its faces."""
    _check_reference(method, name)
    return assemble(name, {"method": method, "settings": settings, **frame}, None, {}, None, device)


def find_weights(
    name_or_path: str | Path,
    config: Config | None = None,
    root: str | Path = ROOT,
    results: str | Path = "results",
) -> Path | None:
    """The weights file that `load_model` would read, or None when there is no such file."""
    given = Path(name_or_path)
    if given.suffix == ".safetensors":
        if not given.is_file():
            raise RestoreError(f"no weights file {given}")
        return given
    name = str(name_or_path)
    places = _places(name, root, results)
    if config is not None and name in config.models and config.models[name].weights:
        places = [Path(project_file(config.models[name].weights, root))]
    return next((place for place in places if place.is_file()), None)


def _places(name: str, root, results) -> list[Path]:
    return [
        Path(root) / "weights" / f"{name}.safetensors",
        Path(results) / "models" / name / "weights.safetensors",
    ]


def _beside(path: Path, helper: str) -> Path | None:
    """The helper's file in the same folder, or in the neighbouring one of results/models."""
    for place in (
        path.parent / f"{helper}.safetensors",
        path.parent.parent / helper / "weights.safetensors",
    ):
        if place.is_file():
            return place
    return None


def _untrained(name: str, config, root, results):
    """Method, settings and frame of an entry without weights; RestoreError when it needs some."""
    entry = config.models.get(name) if config is not None else None
    if entry is None and not (name in METHODS and not METHODS[name].trained):
        known = {item.stem for item in (Path(root) / "weights").glob("*.safetensors")}
        known |= {item.parent.name for item in Path(results).glob("models/*/weights.safetensors")}
        known |= set(config.models) if config is not None else set()
        known |= {key for key, row in METHODS.items() if not row.trained}
        raise RestoreError(f"unknown model {name!r} {nearest(name, known)}")
    method = entry.method if entry else name
    if METHODS[method].trained:
        places = [entry.weights] if entry and entry.weights else _places(name, root, results)
        looked = " or ".join(str(place) for place in places)
        raise RestoreError(f"model {name} has no weights yet: looked for {looked}")
    frame = {}
    if config is not None and config.run.datasets:
        dataset = config.datasets[config.run.datasets[0]]
        frame = dataset.model_dump(include={"size", "crop_scale", "crop_shift"})
    return method, entry.settings if entry else {}, frame


def _check_reference(method: str, name: str) -> None:
    if METHODS[method].needs_reference:
        raise RestoreError(f"{name}: method {method} needs a reference face, not supported here")


# ---- aligned faces


def try_faces(
    restorer: Restorer,
    images: torch.Tensor,
    ids: Sequence[str],
    seed: int = 0,
    batch: int = 16,
    sample: int = 0,
    references: torch.Tensor | None = None,
    told: dict[str, dict] | None = None,
) -> list[torch.Tensor | str]:
    """Restore N x 3 x S x S in [0, 1]: per face C x S x S in [0, 1] on the CPU, or why it failed.

    A face depends on (seed, model, id, sample) and its pixels, not on the faces beside it: each has
    random numbers of its own, and what fails in a batch is tried again alone. `sample` counts its
    restorations; 0 is the one that is measured, -1 is the one without noise. references: good
    photographs of the same people, for methods that want them. told: filled with {id: {column:
    number}} of what a method says about its work.
    """
    if len(images) != len(ids):
        raise ValueError(f"{len(images)} images but {len(ids)} ids")
    results: list[torch.Tensor | str] = []
    for start in range(0, len(ids), batch):
        part, names = images[start : start + batch], ids[start : start + batch]
        known = None if references is None else references[start : start + batch]
        try:
            results += _restore(restorer, part, names, seed, sample, known, told)
        except Exception as error:  # a model may fail in any way; the face's row says how
            if len(names) == 1:
                results.append(_reason(error))
                continue
            for i, name in enumerate(names):
                one = None if known is None else known[i : i + 1]
                results += try_faces(restorer, part[i : i + 1], [name], seed, 1, sample, one, told)
    return results


def restore_faces(
    restorer: Restorer,
    images: torch.Tensor,
    ids: Sequence[str],
    seed: int = 0,
    batch: int = 16,
    sample: int = 0,
    references: torch.Tensor | None = None,
) -> torch.Tensor:
    """N x 3 x S x S in [0, 1] -> the same, restored, on the CPU; as `try_faces`.

    Raises RestoreError naming the faces that failed and why.
    """
    results = try_faces(restorer, images, ids, seed, batch, sample, references)
    failed = [f"{name}: {item}" for name, item in zip(ids, results) if isinstance(item, str)]
    if failed:
        words = f"{len(failed)} of {len(ids)} faces: {'; '.join(failed[:3])}"
        raise RestoreError(f"{restorer.name} failed on {words}")
    return torch.stack(results)


def _restore(restorer, images, names, seed, sample, references, told) -> list[torch.Tensor | str]:
    which = (sample,) if sample else ()
    generators = [torch_generator(seed, restorer.name, "restore", n, *which) for n in names]
    sides, size = restorer.sides, images.shape[-1]
    given = images if sides is None else resized(images, sides[0])
    faces = Faces(
        given.to(restorer.device),
        None if references is None else references.to(restorer.device),
        generators if sample >= 0 else (),
        restorer.recipe,
    )
    started = time.perf_counter()
    with torch.no_grad():
        restored = restorer.module.restore(restorer.model, faces, restorer.guide)
    restored = restored.detach().float().cpu()
    seconds = (time.perf_counter() - started) / len(names)
    wanted = images.shape if sides is None else (*images.shape[:2], sides[1], sides[1])
    if restored.shape != wanted:
        raise RestoreError(f"result is {tuple(restored.shape)}, expected {tuple(wanted)}")
    finite = torch.isfinite(restored).flatten(1).all(1).tolist()
    if told is not None and faces.told:
        for i, name in enumerate(names):
            numbers = {column: values[i] for column, values in faces.told.items()}
            told[name] = {**numbers, "seconds": seconds}
    if sides is not None:
        restored = resized(restored.nan_to_num().clamp(0, 1), size)
    return [
        image.clamp(0, 1) if good else "the model's output is not finite"
        for image, good in zip(restored, finite)
    ]


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())[:200]
    return text if isinstance(error, RestoreError) else f"{type(error).__name__}: {text}"


def restore_folder(
    ids: Sequence[str],
    in_dir: str | Path,
    out_dir: str | Path,
    out_csv: str | Path,
    restorer: Restorer,
    seed: int = 0,
    batch: int = 16,
    progress: bool | None = False,
    references: Mapping[str, Path | None] | None = None,
) -> Counter:
    """Restore {id}.png of `in_dir` into `out_dir`; a row id, status, reason per face in `out_csv`.

    Status is restored or failed; a failed face has no image. Both outputs appear complete or not at
    all. A method that tells about its work adds columns (iterations, seconds), a net with sides of
    its own adds `note`. references: {id: a good photograph of the same person, or None}, aligned;
    a face without one fails. `progress`: True, False, or None for only on a terminal. Returns the
    statuses' counts.
    """
    from tqdm import tqdm

    in_dir, counts, rows = Path(in_dir), Counter(), []
    hidden = None if progress is None else not progress
    bar = tqdm(total=len(ids), desc=restorer.name, disable=hidden)
    note = sides_note(restorer.size, restorer.sides) if restorer.sides else ""
    with (
        bar,
        atomic_output(out_csv) as part_csv,
        atomic_output(out_dir, folder=True) as part_dir,
    ):
        for start in range(0, len(ids), batch):
            names = ids[start : start + batch]
            told: dict[str, dict] = {}
            results = _restore_files(restorer, in_dir, names, seed, batch, references, told)
            for name in names:
                result = results[name]
                failed = isinstance(result, str)
                if not failed:
                    write_image(part_dir / f"{name}.png", to_uint8(result[None])[0])
                status = "failed" if failed else "restored"
                row = {"id": name, "status": status, "reason": result if failed else ""}
                numbers = {column: f"{v:.6g}" for column, v in told.get(name, {}).items()}
                rows.append(row | numbers | ({"note": note} if note and not failed else {}))
                counts[status] += 1
            bar.update(len(names))
        more = dict.fromkeys(column for row in rows for column in row)
        columns = [*STATUS_COLUMNS, *(column for column in more if column not in STATUS_COLUMNS)]
        with part_csv.open("w", encoding="utf-8", newline="") as opened:
            writer = csv.DictWriter(opened, columns, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    return counts


def _restore_files(
    restorer, in_dir, names, seed, batch, references, told
) -> dict[str, torch.Tensor | str]:
    results: dict[str, torch.Tensor | str] = {}
    by_size: dict[tuple, dict[str, np.ndarray]] = {}
    known: dict[str, np.ndarray] = {}
    for name in names:
        try:
            pixels = read_image(in_dir / f"{name}.png")
            if references is not None:
                if references.get(name) is None:
                    raise BadImage("no other photograph of this person")
                known[name] = read_image(references[name])
            by_size.setdefault(pixels.shape, {})[name] = pixels
        except BadImage as bad:
            results[name] = str(bad)
    for faces in by_size.values():
        images, good = to_float(np.stack(list(faces.values()))), None
        if references is not None:
            good = to_float(np.stack([known[name] for name in faces]))
        found = try_faces(restorer, images, list(faces), seed, batch, 0, good, told)
        results |= zip(faces, found)
    return results


# ---- photographs


@dataclass(frozen=True)
class PhotoOptions:
    """What `frcore restore` does with a photograph; every field changes the result.

    faces: all, largest, or numbers from left to right such as "0,2". strength: share of the
    restored face in the blend. scale: enlargement of the whole photograph. aligned: photographs are
    aligned faces already, the result has the model's size. min_face: pixels of the photograph.
    samples: restorations of each photograph, for models that draw random numbers.
    """

    faces: str = "all"
    scale: int = 1
    aligned: bool = False
    strength: float = 1.0
    strip_metadata: bool = False
    min_face: int = 0
    detector: str = "hog"
    enlarge: int = 2
    seed: int = 0
    samples: int = 1

    def __post_init__(self):
        if self.faces not in ("all", "largest"):
            self.chosen()
        if self.scale not in (1, 2, 4):
            raise ValueError(f"scale must be 1, 2 or 4, got {self.scale}")
        if not 0 <= self.strength <= 1:
            raise ValueError(f"strength must be in 0..1, got {self.strength}")
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, got {self.samples}")
        if self.aligned and self.scale != 1:
            raise ValueError("aligned faces keep the model's size: no scale")

    def chosen(self) -> list[int]:
        """Numbers of the wanted faces; ValueError when `faces` is none."""
        parts = self.faces.split(",")
        if not all(part.strip().isdecimal() for part in parts):
            raise ValueError(f"faces must be all, largest or numbers like 0,2, got {self.faces!r}")
        return [int(part) for part in parts]


@dataclass
class Opened:
    """A photograph and what must survive its restoration.

    image: upright RGB. alpha: L or None. grey: 1 (one channel), 3 (three equal ones) or 0.
    """

    image: Image.Image
    alpha: Image.Image | None
    grey: int
    exif: bytes
    icc: bytes | None
    xmp: bytes | None
    note: str = ""


@dataclass
class _Job:
    """One face on its way: `pixels` uint8 S x S x 3 unless `status` is decided already.

    restored, distances: one entry a sample; empty unless all of them were restored.
    """

    number: int
    box: tuple = ()
    status: str = ""
    reason: str = ""
    pixels: np.ndarray | None = None
    transform: np.ndarray | None = None
    restored: list[np.ndarray] = field(default_factory=list)
    distances: list[float] = field(default_factory=list)


def open_photo(path: str | Path) -> Opened:
    """Read a photograph for restoration. Raises BadImage with a short reason."""
    path, notes = Path(path), []
    image = read_photo(path)
    with Image.open(path) as opened:
        exif = _exif_of(opened, notes)  # before load: a TIFF is closed by it
        n_frames = getattr(opened, "n_frames", 1)
        deep = any(";16" in str(tile[3]) for tile in opened.tile if len(tile) > 3)
        opened.load()
        turned = ImageOps.exif_transpose(opened)
    if deep or turned.mode.startswith(("I", "F")):
        notes.append("more than 8 bit: written as 8-bit")
    alpha = None
    if turned.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in turned.info:
        rgba = turned.convert("RGBA")
        # colours as they are under the transparency: over white they would be blended twice
        image, alpha = rgba.convert("RGB"), rgba.getchannel("A")
    if n_frames > 1:
        notes.append("first picture of several")
    icc = turned.info.get("icc_profile")
    if turned.mode == "CMYK":
        notes.append("CMYK: written as RGB without its colour profile")
        icc = None
    if turned.mode in ("1", "L", "LA", "La", "F") or turned.mode.startswith("I"):
        grey = 1
    else:
        pixels = np.asarray(image)
        grey = 3 if (pixels == pixels[..., :1]).all() else 0
    return Opened(image, alpha, grey, exif, icc, turned.info.get("xmp"), "; ".join(notes))


def _exif_of(opened: Image.Image, notes: list[str]) -> bytes:
    """Tags that describe the photograph; not those that describe its file or its orientation."""
    try:
        exif = opened.getexif()
        kept = Image.Exif()
        if len(exif):
            kept.load(exif.tobytes())
        for tag in list(kept):
            if tag not in _EXIF_KEPT and not 0x9C9B <= tag <= 0x9C9F:
                del kept[tag]
        return kept.tobytes() if len(kept) else b""
    except Exception as error:  # damaged tags must not cost the photograph
        notes.append(f"EXIF left out: {type(error).__name__}")
        return b""


def write_photo(path: str | Path, pixels: np.ndarray, photo: Opened, strip: bool = False) -> None:
    """Write uint8 H x W x 3 with the alpha, greyness and metadata of `photo`, atomically.

    The format follows the suffix of `path`. JPEG in quality 95 without chroma subsampling; the
    others lossless. `strip` leaves out EXIF and XMP; the colour profile stays.
    """
    path = Path(path)
    image = Image.fromarray(pixels)
    if photo.grey == 1:
        image = image.convert("L")
    if photo.alpha is not None:
        alpha = photo.alpha
        if alpha.size != image.size:
            alpha = alpha.resize(image.size, Image.Resampling.BICUBIC)
        image.putalpha(alpha)
    form = _WRITTEN[path.suffix.lower()]
    options: dict = {"format": form}
    if form == "JPEG":
        options |= {"quality": 95, "subsampling": 0}
    elif form == "WEBP":
        options |= {"lossless": True}
    elif form == "TIFF":
        options |= {"compression": "tiff_lzw"}
    if photo.icc:
        options["icc_profile"] = photo.icc
    if not strip and photo.exif:
        options["exif"] = _exif_for(photo.exif, image.size, form)
    if not strip and photo.xmp and form in ("JPEG", "WEBP"):
        options["xmp"] = photo.xmp
    buffer = io.BytesIO()
    image.save(buffer, **options)
    with atomic_output(path) as part:
        part.write_bytes(buffer.getvalue())


def _exif_for(exif: bytes, size: tuple[int, int], form: str):
    """The tags for a photograph of `size` pixels."""
    kept = Image.Exif()
    kept.load(exif)
    inner = kept.get_ifd(0x8769)
    for tag, side in ((0xA002, size[0]), (0xA003, size[1])):
        if tag in inner:
            inner[tag] = side
    return kept if form == "TIFF" else kept.tobytes()


def restore_photo(
    photo: Opened,
    restorer: Restorer,
    options: PhotoOptions,
    detector: detect.Detector | None = None,
    recognise=None,
    name: str = "photo",
) -> tuple[np.ndarray | None, list[dict]]:
    """One photograph -> (uint8 H x W x 3, or None when no face was restored; a row per face).

    Of several samples the first is pasted. Rows have face, status (restored | skipped | failed),
    reason, box, id_distance, and the aligned crops `before` and, a list, `after`. `recognise`: net
    of helpers/identity.py, or None. Raises RestoreError for samples of a model that draws nothing.
    """
    _check_samples(restorer, options)
    jobs = _find(photo, restorer, options, detector)
    _restore_jobs([(name, job) for job in jobs], restorer, options, recognise, batch=16)
    return _paste(photo, jobs, options), _rows(jobs)


def _check_samples(restorer: Restorer, options: PhotoOptions) -> None:
    if options.samples > 1 and not restorer.stochastic:
        raise RestoreError(
            f"{restorer.name} draws nothing and restores a face in one way: samples must be 1"
        )


def restore_photos(
    photos: str | Path,
    out_dir: str | Path,
    restorer: Restorer,
    options: PhotoOptions,
    assets: str | Path,
    batch: int = 16,
    overwrite: bool = False,
    progress: bool | None = None,
) -> Counter:
    """Restore a photograph or a folder of them into `out_dir`.

    Faces are batched across photographs. Writes each photograph under its own name (formats that
    cannot be written: NAME.SUFFIX.png), restored.csv (PHOTO_COLUMNS; a row per face, or one for a
    photograph without any), and the aligned faces before and after in faces/. What an earlier call
    finished with the same file, model and options is kept.
    With options.samples > 1 a photograph becomes NAME_0.SUFFIX, NAME_1.SUFFIX ... (`output` names
    the first), id_distance is the mean over samples, and restored.csv has SAMPLE_COLUMNS too:
    `sample_rms_255` is the mean over pairs of samples of the root mean square difference of the
    face, scale 0..255. faces/*_std.png shows the standard deviation of each of its pixels (root
    mean square over channels); its white is `sample_std_max_255`, on the same scale.
    Returns counts: photos, restored, unrestored, faces, failed, kept.
    Raises ValueError when `out_dir` lies in `photos`, AssetMissing without the landmark model,
    RestoreError for samples of a model that draws nothing.
    """
    from tqdm import tqdm

    _check_samples(restorer, options)
    photos, out_dir = Path(photos), Path(out_dir)
    listing = _listing(photos)
    if photos.is_dir() and out_dir.resolve().is_relative_to(photos.resolve()):
        raise ValueError(f"{out_dir} lies in {photos}: results would be taken for photographs")
    if photos.is_file() and out_dir.resolve() == photos.resolve().parent:
        raise ValueError(f"{out_dir} holds the photograph itself: choose another folder")
    detector = None if options.aligned else _detector(options.detector, assets)
    recognise = _recogniser(assets, restorer.device)
    (out_dir / "faces").mkdir(parents=True, exist_ok=True)
    (out_dir / ".done").mkdir(exist_ok=True)

    rows: dict[str, list[dict]] = {}
    kept, todo = 0, []
    for item in listing:
        key = _key(item, restorer, options, recognise)
        record = None if overwrite else _read_record(out_dir, item, key)
        if record is None:
            todo.append((item, key))
        else:
            rows[item.id] = record
            kept += 1
    with tqdm(
        total=len(todo), unit="photo", disable=None if progress is None else not progress
    ) as bar:
        for start in range(0, len(todo), batch):
            chunk = todo[start : start + batch]
            found = {item.id: _prepare(item, restorer, options, detector) for item, _ in chunk}
            jobs = [
                (name, job)
                for name, made in found.items()
                if not isinstance(made, str)
                for job in made
            ]
            _restore_jobs(jobs, restorer, options, recognise, batch)
            for item, key in chunk:
                rows[item.id] = _finish(item, found[item.id], out_dir, options, overwrite, key)
                bar.update()
    flat = [{"photo": item.photo, **row} for item in listing for row in rows[item.id]]
    columns = PHOTO_COLUMNS + SAMPLE_COLUMNS * (options.samples > 1)
    write_table(out_dir / "restored.csv", columns, flat)
    good = sum(any(row["status"] == "restored" for row in rows[item.id]) for item in listing)
    return Counter(
        photos=len(listing),
        restored=good,
        unrestored=len(listing) - good,
        faces=sum(row["status"] == "restored" for row in flat),
        failed=sum(row["status"] == "failed" for row in flat),
        kept=kept,
    )


def _listing(photos: Path) -> list[sources.Photo]:
    if photos.is_dir():
        return sorted(sources.list_folder(photos), key=lambda photo: photo.photo)
    if not photos.exists():
        raise FileNotFoundError(f"no such file or folder: {photos}")
    name = sources.photo_id(Path(photos.name))
    return [sources.Photo(name, photos.name, name, photos)]


def _detector(kind: str, assets):
    from frcore.assets import locate

    for name in ("dlib_68", *(["dlib_mmod"] if kind == "mmod" else [])):
        locate(name, assets)
    return detect.load_detector(kind, Path(assets))


def _recogniser(assets, device):
    """dlib's face recognition when its file is there: identity is a check, not a need."""
    from frcore.assets import AssetMissing, locate
    from frcore.helpers import identity

    try:
        return identity.load(locate("dlib_resnet", assets), device)
    except AssetMissing:
        return None


def _find(photo: Opened, restorer, options, detector) -> list[_Job]:
    """The faces of a photograph, from left to right, aligned unless they are skipped."""
    image, size = photo.image, restorer.size
    if options.aligned:
        if image.width != image.height:
            text = f"an aligned face must be square, got {image.width}x{image.height}"
            return [_Job(0, (), "failed", text)]
        pixels = np.asarray(image.resize((size, size), Image.Resampling.LANCZOS))
        return [_Job(0, (0, 0, image.width - 1, image.height - 1), pixels=pixels)]
    faces = detect.find_faces(image, detector, options.enlarge)
    wanted = set(range(len(faces)))
    if options.faces == "largest" and faces:
        wanted = {max(range(len(faces)), key=lambda i: faces[i].area)}
    elif options.faces != "all":
        wanted = set(options.chosen())
    jobs = []
    for number, face in enumerate(faces):
        job = _Job(number, face.box)
        jobs.append(job)
        if number not in wanted:
            job.status, job.reason = "skipped", "not chosen"
        elif face.width < options.min_face:
            job.status, job.reason = "skipped", f"smaller than {options.min_face} px"
        else:
            square = align.crop_square(face.landmarks, *restorer.crop)
            job.pixels = align.warp(image, square, size)
            job.transform = align.square_transform(square, size)
    return jobs


def _prepare(item, restorer, options, detector) -> list[_Job] | str:
    """Faces of a file, or why it cannot be used. The photograph itself is read again for pasting,
    so that a batch holds faces only."""
    try:
        sources.read(item)
        jobs = _find(open_photo(item.path), restorer, options, detector)
    except BadImage as bad:
        return str(bad)
    except MemoryError:
        return "too large for this machine's memory"
    except Exception as error:  # one strange photograph must not cost the others
        return _reason(error)
    return jobs or "no face found"


def _restore_jobs(jobs: list[tuple[str, _Job]], restorer, options, recognise, batch) -> None:
    jobs = [(name, job) for name, job in jobs if job.pixels is not None]
    if not jobs:
        return
    images = to_float(np.stack([job.pixels for _, job in jobs]))
    ids = [f"{name}_{job.number}" for name, job in jobs]
    for sample in range(options.samples):
        results = try_faces(restorer, images, ids, options.seed, batch, sample)
        for (_, job), before, result in zip(jobs, images, results):
            if job.status == "failed":
                continue
            if isinstance(result, str):  # one face, one status: all samples or none
                job.status, job.reason, job.restored = "failed", result, []
                continue
            job.status = "restored"
            blended = before + (result - before) * options.strength
            job.restored.append(to_uint8(blended[None])[0])
    done = [
        (before, after, job) for (_, job), before in zip(jobs, images) for after in job.restored
    ]
    if recognise is None or not done:
        return
    crop = (restorer.crop[0], restorer.crop[1])
    for start in range(0, len(done), batch):
        part = done[start : start + batch]
        before = torch.stack([image for image, _, _ in part])
        after = to_float(np.stack([pixels for _, pixels, _ in part]))
        with torch.no_grad():
            both = recognise.descriptors(
                torch.cat([before, after]).to(restorer.device), *crop
            ).cpu()
        distances = (both[: len(part)] - both[len(part) :]).norm(dim=1)
        for (_, _, job), distance in zip(part, distances.tolist()):
            job.distances.append(distance)


def _paste(photo: Opened, jobs: list[_Job], options: PhotoOptions, sample=0) -> np.ndarray | None:
    """The photograph with its restored faces, or None when there is none."""
    done = [job for job in jobs if job.restored]
    if not done:
        return None
    faces = [job.restored[sample] for job in done]
    if photo.grey:
        faces = [_grey(face) for face in faces]
    if options.aligned:
        return faces[0]
    patches = [paste.Patch(face, job.transform) for face, job in zip(faces, done)]
    background = paste.enlarge_photo(photo.image, options.scale)
    pasted = paste.paste_faces(background, patches, options.scale)
    # resampling treats channels alike, so a grey photograph is grey here
    return pasted


def _grey(pixels: np.ndarray) -> np.ndarray:
    return np.repeat(np.asarray(Image.fromarray(pixels).convert("L"))[..., None], 3, axis=2)


def _rows(jobs: list[_Job]) -> list[dict]:
    rows = []
    for job in jobs:
        row = {
            "face": job.number,
            "status": job.status,
            "reason": job.reason,
            "box": " ".join(f"{value:.1f}" for value in job.box),
            "before": job.pixels,
            "after": job.restored,
        }
        notes, n = [], len(job.restored)
        if job.distances:
            row["id_distance"] = f"{np.mean(job.distances):.4f}"
            others = sum(distance > _OTHER_PERSON for distance in job.distances)
            if others:
                which = f"{others} of {n} samples " if n > 1 else ""
                notes.append(f"{which}may look like another person")
        if n > 1:
            row["samples"] = n
            row["sample_rms_255"] = f"{sample_distance(job.restored):.4f}"
            row["sample_std_max_255"] = f"{sample_deviation(job.restored).max():.4f}"
        if job.restored and job.transform is not None:
            size = len(job.restored[0])
            side = size / np.hypot(*job.transform[:, 0])
            if side > 1.5 * size:
                notes.append(f"the face has {side:.0f} px, the model has {size}: detail is lost")
        row["note"] = "; ".join(notes)
        rows.append(row)
    return rows


def sample_distance(samples: Sequence[np.ndarray]) -> float:
    """Mean over pairs of the root mean square difference of uint8 images H x W x 3, 0..255."""
    pairs = combinations([image.astype(np.float64) for image in samples], 2)
    return float(np.mean([np.sqrt(np.mean((a - b) ** 2)) for a, b in pairs]))


def sample_deviation(samples: Sequence[np.ndarray]) -> np.ndarray:
    """Standard deviation of each pixel over uint8 images H x W x 3 -> H x W, scale 0..255.

    Root mean square over channels; n - 1 in the denominator.
    """
    return np.sqrt(np.var(np.stack(samples).astype(np.float64), axis=0, ddof=1).mean(-1))


def _finish(item, found, out_dir: Path, options, overwrite, key) -> list[dict]:
    """Paste, write and record one photograph; its rows for the table."""
    if isinstance(found, str):
        status = "skipped" if found == "no face found" else "failed"
        rows = [{"face": "", "status": status, "reason": found}]
        if status == "skipped":
            _write_record(out_dir, item, key, rows)
        return rows
    targets = _targets(item, out_dir, options.samples)
    try:
        ours = _recorded_targets(item, out_dir)
        for target in targets:
            if target.exists() and not overwrite and target not in ours:
                raise RestoreError(f"{target} is there already and is not ours: use --overwrite")
        photo = open_photo(item.path)
        # should writing be cut off, the next call knows whose these files are
        cut_off = {"status": "failed", "reason": CUT_OFF, "samples": options.samples}
        _write_record(out_dir, item, key, [cut_off])
        for sample, target in enumerate(targets):
            pixels = _paste(photo, found, options, sample)
            if pixels is not None:
                write_photo(target, pixels, photo, options.strip_metadata)
        rows = _rows(found)
        for row in rows:
            before, after = row.pop("before"), row.pop("after")
            if row["status"] == "restored":
                for what, crop in _face_pictures(before, after).items():
                    face = f"{item.id}_{row['face']}_{what}.png"
                    with atomic_output(out_dir / "faces" / face) as part:
                        write_image(part, crop)
                row["output"] = targets[0].relative_to(out_dir).as_posix()
                row["note"] = "; ".join(text for text in (row.get("note"), photo.note) if text)
    except Exception as error:  # writing may fail for one format or one full disk
        return [{"face": "", "status": "failed", "reason": _reason(error)}]
    _write_record(out_dir, item, key, rows)
    return rows


def _face_pictures(before: np.ndarray, after: list[np.ndarray]) -> dict[str, np.ndarray]:
    if len(after) == 1:
        return {"before": before, "after": after[0]}
    samples = {f"after_{sample}": pixels for sample, pixels in enumerate(after)}
    deviation = sample_deviation(after)
    # deviations are small: the largest is white, and its value is in the table
    grey = np.uint8(np.rint(255 * deviation / max(deviation.max(), 1e-9)))
    return {"before": before, **samples, "std": grey}


def _targets(item: sources.Photo, out_dir: Path, samples: int) -> list[Path]:
    """Where the restored photographs go, one a sample."""
    name = Path(item.photo)
    # a name that is not valid text cannot be written to a table and found again
    if not item.path.as_posix().endswith(item.photo):
        name = Path(f"{item.id}{item.path.suffix}")
    suffix = item.path.suffix.lower()
    name = name if suffix in _WRITTEN else name.with_name(name.name + ".png")
    if samples > 1:
        return [out_dir / name.with_name(f"{name.stem}_{k}{name.suffix}") for k in range(samples)]
    return [out_dir / name]


def _key(item, restorer, options, recognise) -> str:
    """What a photograph's result depends on."""
    try:
        digest = sources.digest(item)
    except OSError:
        digest = "unreadable"
    facts = [digest, restorer.digest, asdict(options), recognise is not None]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _record_path(out_dir: Path, item) -> Path:
    return out_dir / ".done" / f"{item.id}.json"


def _load_record(out_dir: Path, item) -> dict | None:
    try:
        return json.loads(_record_path(out_dir, item).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _recorded_targets(item, out_dir: Path) -> list[Path]:
    """The photographs that an earlier call wrote for this file."""
    record = _load_record(out_dir, item) or {"rows": []}
    written = [row for row in record["rows"] if "output" in row or row.get("reason") == CUT_OFF]
    if not written:
        return []
    return _targets(item, out_dir, max(row.get("samples", 1) for row in written))


def _read_record(out_dir: Path, item, key: str) -> list[dict] | None:
    """Rows of a photograph that was finished with the same key, if its results are all there."""
    record = _load_record(out_dir, item)
    if record is None or record["key"] != key:
        return None
    if any(row["status"] == "failed" for row in record["rows"]):
        return None  # to be tried again
    written = any("output" in row for row in record["rows"])
    if written and not all(path.is_file() for path in _recorded_targets(item, out_dir)):
        return None
    return record["rows"]


def _write_record(out_dir: Path, item, key: str, rows: list[dict]) -> None:
    with atomic_output(_record_path(out_dir, item)) as part:
        part.write_text(json.dumps({"key": key, "rows": rows}), encoding="utf-8")


def config_mistakes(config: Config) -> list[str]:
    """Mistakes in the methods' own settings, one line each."""
    mistakes = []
    for name, entry in config.models.items():
        module = load_method(entry.method)
        try:
            load_settings(module.Settings, entry.settings, f"models.{name}.settings.")
        except ConfigError as error:
            mistakes += error.mistakes
    return mistakes
