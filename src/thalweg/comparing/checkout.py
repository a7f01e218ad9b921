"""Copies a commit of a repository into a clean folder."""

from __future__ import annotations

import subprocess
import tarfile
from io import BytesIO
from pathlib import Path

from thalweg.arguments import short
from thalweg.errors import UserError


def check_out(commit: str, folder: Path) -> str:
    """Copies all files of a commit of this repository into a folder. Returns the full name.

    The folder has no file of the working copy, and the repository does not change.
    Raises `UserError` where there is no repository or no such commit, or it cannot be read.
    """
    if commit.startswith("-"):
        raise UserError(f"--at {short(commit)} is no commit of this repository.")
    name = git("rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}", wanted=commit)
    top = git("rev-parse", "--show-toplevel", wanted=commit).decode().strip()
    files = git("-C", top, "archive", "--format=tar", name.decode().strip(), wanted=commit)
    with tarfile.open(fileobj=BytesIO(files)) as archive:
        archive.extractall(folder, filter="tar")
    return name.decode().strip()


def place_within() -> Path:
    """The path of this folder from the top of its repository."""
    return Path(git("rev-parse", "--show-prefix", wanted="HEAD").decode().strip())


def git(*words: str, wanted: str) -> bytes:
    try:
        done = subprocess.run(["git", *words], capture_output=True)
    except OSError as error:
        raise UserError(f"--at needs git, which cannot be run: {error.strerror}.") from None
    if done.returncode:
        why = done.stderr.decode(errors="replace").strip().splitlines()
        told = why[-1].rstrip(".") if why else "there is no such commit"
        raise UserError(f"The commit {short(wanted)} cannot be checked out: {told}.")
    return done.stdout
