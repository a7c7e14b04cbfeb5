"""Pretrained parts and archives of photographs: what there is, where it is, whether it is right."""

import contextlib
import csv
import hashlib
import io
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from frcore.config import CATALOGUE, Asset, ConfigError, load_settings, read_yaml
from frcore.registry import nearest

BLOCK = 1 << 20


class AssetError(RuntimeError):
    """Something is wrong with an asset; one line."""


class AssetMissing(AssetError):
    """An asset is not there and cannot be had; names the file and the folder to put it in."""


class AssetBroken(AssetMissing):
    """A file whose SHA-256 is not the expected one; names both."""


def resources_root() -> Path:
    """The cache root: $FRCORE_RESOURCES, else ./resources in a project folder, else ~/.cache."""
    if os.environ.get("FRCORE_RESOURCES"):
        return Path(os.path.expanduser(os.environ["FRCORE_RESOURCES"]))
    if Path("Snakefile").is_file():
        return Path("resources")
    try:
        return Path.home() / ".cache" / "frcore"
    except RuntimeError:  # an account without a home folder, as in a container
        return Path("resources")


def catalogue(extra: Mapping[str, Asset | Mapping] | None = None) -> dict[str, Asset]:
    """assets.yaml with the entries of `extra` (config.yaml's `assets:`) added or put in place.

    Raises ConfigError with one line per mistake.
    """
    entries = {**read_yaml(CATALOGUE / "assets.yaml"), **(extra or {})}
    assets, mistakes = {}, []
    for name, entry in entries.items():
        try:
            asset = entry
            if not isinstance(entry, Asset):
                asset = load_settings(Asset, entry, f"assets.{name}.")
            mistakes += [f"assets.{name}: {text}" for text in mistakes_of(asset)]
            assets[name] = asset
        except ConfigError as error:
            mistakes += error.mistakes
    if mistakes:
        raise ConfigError(mistakes)
    return assets


def mistakes_of(asset: Asset) -> Iterator[str]:
    sources = [key for key in ("package", "url", "path") if getattr(asset, key)]
    if len(sources) > 1:
        yield f"expected one source, got {' and '.join(sources)}"
    if asset.url and not asset.url.startswith(("https://", "http://")):
        yield f"url: expected https://, got {asset.url!r} (a file of yours is `path:`)"
    if asset.package and not (asset.version and asset.artifact_sha256 and asset.member):
        yield "a package needs version, artifact_sha256 and member"
    for file, sha256 in ((asset.file, asset.sha256), *asset.also.items()):
        if not re.fullmatch(r"[0-9a-f]{8,64}", sha256):
            yield f"sha256 must be 8 to 64 lower-case hex digits, got {sha256!r}"
        # Snakemake reads braces as wildcards
        odd = set(file) & set("{}\\/") or file.startswith(".") or not file.isprintable()
        if not file or odd or Path(file).name != file:
            yield f"file must be a plain name, got {file!r}"


def can_be_fetched(asset: Asset) -> bool:
    """Whether there is somewhere to get it from, and the program that gets it."""
    if asset.package and asset.client == "npm":
        return shutil.which("npm") is not None
    return bool(asset.package or asset.url or asset.path)


def entry_of(name: str, root: str | Path, assets: Mapping[str, Asset]) -> Asset:
    """Entry `name`; where a file of yours (`also`) is in its place, that of this file."""
    asset = assets[name]
    source = ("package", "url", "path", "member", "convert")
    for file, sha256 in asset.also.items():
        if os.path.lexists(Path(root) / name / file):
            own = {"file": file, "sha256": sha256, "size": None, **dict.fromkeys(source)}
            return asset.model_copy(update={**own, "also": {}})
    return asset


def place(name: str, root: str | Path, assets: Mapping[str, Asset] | None = None) -> Path:
    """Where asset `name` belongs, there or not. Raises AssetError for an unknown name."""
    assets = catalogue() if assets is None else assets
    if name not in assets:
        raise AssetError(f"unknown asset {name!r} {nearest(name, assets)}")
    return Path(root) / name / entry_of(name, root, assets).file


def locate(name: str, root: str | Path, assets: Mapping[str, Asset] | None = None) -> Path:
    """The checked file (or folder tree) of asset `name`. Never fetches.

    Raises AssetMissing when it is not there, AssetBroken when it is another file.
    """
    assets = catalogue() if assets is None else assets
    path = place(name, root, assets)
    asset = entry_of(name, root, assets)
    if not path.exists():
        raise AssetMissing(where_from(name, asset, path))
    got = wrong_hash(path, asset)
    if got is not None:
        raise AssetBroken(f"{hash_text(path, asset.sha256, got)}; {remedy(name, path)}")
    return path


def verify(root: str | Path, assets: Mapping[str, Asset] | None = None) -> list[dict[str, str]]:
    """Read every asset again: rows of asset, status (ok | missing | wrong), file, expected, got."""
    assets = catalogue() if assets is None else assets
    rows = []
    for name in assets:
        path, asset = place(name, root, assets), entry_of(name, root, assets)
        got = sha256_of(path, asset) if path.exists() else ""
        status = "ok" if got.startswith(asset.sha256) else "wrong" if got else "missing"
        rows.append(
            {
                "asset": name,
                "status": status,
                "file": str(path),
                "expected": asset.sha256,
                "got": got,
            }
        )
    return rows


def present(root: str | Path, assets: Mapping[str, Asset] | None = None) -> dict[str, Path]:
    """{name: path} of the assets that are in `root`; the path need not have been checked."""
    assets = catalogue() if assets is None else assets
    paths = {name: place(name, root, assets) for name in assets}
    return {name: path for name, path in paths.items() if path.exists()}


class Checked(Mapping):
    """{name: path} of the assets that are in `root`; each is checked when it is asked for."""

    def __init__(self, root: str | Path, assets: Mapping[str, Asset]):
        self.root, self.assets = root, assets

    def __getitem__(self, name: str) -> Path:
        """Raises KeyError where it is not there, AssetBroken where it is another file."""
        if name not in self:
            raise KeyError(name)
        return locate(name, self.root, self.assets)

    def __contains__(self, name: object) -> bool:
        return name in self.assets and place(str(name), self.root, self.assets).exists()

    def __iter__(self) -> Iterator[str]:
        return iter(present(self.root, self.assets))

    def __len__(self) -> int:
        return len(present(self.root, self.assets))


def licence_table(
    names: Sequence[str],
    root: str | Path,
    assets: Mapping[str, Asset] | None = None,
    form: str = "markdown",
) -> str:
    """Licence, source and SHA-256 of the assets `names`, as a `markdown` or `csv` table."""
    assets = catalogue() if assets is None else assets
    rows = []
    for name in names:
        path, asset = place(name, root, assets), entry_of(name, root, assets)
        source = f"{asset.package} {asset.version}" if asset.package else asset.url or asset.path
        rows.append(
            {
                "asset": name,
                "what": asset.what,
                "licence": asset.licence,
                "note": asset.note,
                "source": source or "brought by the user",
                "file": asset.file,
                "sha256": asset.sha256,
                "here": "yes" if path.exists() else "no",
            }
        )
    columns = ["asset", "what", "licence", "note", "source", "file", "sha256", "here"]
    if form == "csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()
    if form != "markdown":
        raise ValueError(f"form must be markdown or csv, got {form!r}")
    lines = [columns, ["---"] * len(columns), *([row[key] for key in columns] for row in rows)]
    cells = [[str(cell).replace("|", "\\|") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def where_from(name: str, asset: Asset, path: Path) -> str:
    folder = path.parent.absolute()
    if asset.package or asset.url or asset.path:
        fetch = f"run `frcore weights fetch {name}`"
        if not can_be_fetched(asset):
            fetch = f"install {asset.client} and {fetch}"
        return f"asset {name} is missing: {fetch}, or put {asset.file} into {folder}"
    return (
        f"asset {name} is missing and no package ships it: put {asset.file} into {folder}, then "
        f"check it with `frcore weights fetch {name}`"
    )


def remedy(name: str, path: Path) -> str:
    return f"run `frcore weights fetch {name}` or put the right file into {path.parent.absolute()}"


def hash_text(path: Path, expected: str, got: str) -> str:
    return f"{path}: SHA-256 is {got}, expected {expected}"


def sha256_of(path: Path, asset: Asset | None = None) -> str:
    """SHA-256 of a file, or of a tree's files in the C locale's order of their paths."""
    digest = hashlib.sha256()
    for file in files_of(path, asset):
        with file.open("rb") as opened:
            while block := opened.read(BLOCK):
                digest.update(block)
    return digest.hexdigest()


def files_of(path: Path, asset: Asset | None) -> list[Path]:
    if path.is_file():
        return [path]
    pattern = PurePosixPath(asset.member).name if asset and asset.member else "*"
    found = [item for item in path.rglob(pattern) if item.is_file()]
    return sorted(found, key=lambda item: os.fsencode(item.relative_to(path).as_posix()))


def wrong_hash(path: Path, asset: Asset) -> str | None:
    """None when `path` is what the catalogue says, else its SHA-256.

    A note beside the file spares a second reading. It holds as long as the files are the same ones
    and nobody touched them, and counts only if it is this user's or root's: others may be able to
    write into a shared cache.
    """
    stats = [file.stat() for file in files_of(path, asset)]
    state = {
        "sha256": asset.sha256,
        "files": len(stats),
        "size": sum(item.st_size for item in stats),
        # changed with the bytes, the owner and the place, and set by the system alone
        "changed": max((item.st_ctime_ns for item in stats), default=0),
        "inodes": hashlib.sha256(str([(i.st_dev, i.st_ino) for i in stats]).encode()).hexdigest(),
    }
    note = note_of(path)
    with contextlib.suppress(OSError, ValueError):
        if is_own(note) and json.loads(note.read_text()) == state:
            return None
    got = sha256_of(path, asset)
    if not got.startswith(asset.sha256):
        return got
    with contextlib.suppress(OSError):  # a shared cache may be read-only
        part = note.with_name(f"{note.name}.{os.getpid()}")
        part.unlink(missing_ok=True)
        with open_private(part) as opened:
            opened.write(json.dumps(state).encode())
        os.replace(part, note)
    return None


def note_of(path: Path) -> Path:
    """The note beside a file that was checked."""
    return path.with_name(f".{path.name}.checked")


def is_own(path: Path) -> bool:
    """Whether `path` is a regular file, no link, of this user or root that no other can write."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    mine = status.st_uid in (os.geteuid(), 0) and not status.st_mode & 0o022
    return mine and stat.S_ISREG(status.st_mode)


def open_private(path: Path, append: bool = False) -> BinaryIO:
    """Open `path` for writing, not through a link; others may read it and not write it."""
    more = os.O_APPEND if append else os.O_TRUNC
    number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | more, 0o644)
    return os.fdopen(number, "ab" if append else "wb")
