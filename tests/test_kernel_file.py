"""Compiled kernels in files: what is kept is found again, and nothing of another user is run."""

from __future__ import annotations

import inspect
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from thalweg.cache_folder import cache_folder
from thalweg.fuse.kernel_file import read, write
from thalweg.fuse.printed_module import load

STEP = """
import torch
from thalweg import optim
param = torch.ones(5, requires_grad=True)
optimizer = optim.Adam([param], lr=0.5)
param.grad = torch.ones(5)
optimizer.step()
print(param.tolist())
"""

FIRST_STEPS_IN_THREADS = """
import threading
import torch
from thalweg import optim
start = threading.Barrier(4)
params = [torch.ones(5, requires_grad=True) for _ in range(4)]
def stepped(param):
    optimizer = optim.Adam([param], lr=0.5)
    param.grad = torch.ones(5)
    start.wait()
    optimizer.step()
threads = [threading.Thread(target=stepped, args=[param]) for param in params]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert all(torch.equal(param, params[0]) for param in params)
print(params[0].tolist())
"""

FILES = 3
"""Of one step: the kernel's two functions, and the look at what they work on."""

SOMEBODY = 65534

needs_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="Only root can give files away"
)


def process(cache: Path, program: str = STEP) -> subprocess.Popen[str]:
    """A process that makes files which all can write, and whose Numba is sent elsewhere."""
    environment = {
        "XDG_CACHE_HOME": str(cache),
        "NUMBA_CACHE_DIR": str(cache / "numba"),
        "NUMBA_CACHE_LOCATOR_CLASSES": "planted.Locator",
    }
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env=os.environ | environment,
        umask=0,
        stdout=subprocess.PIPE,
        text=True,
    )


def printed_by(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    np.testing.assert_allclose(eval(out), [0.5] * 5, rtol=1e-6)
    return out


def kernels(cache: Path) -> list[Path]:
    return sorted((cache / "thalweg/kernels").iterdir())


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the kernels of a step, as two processes at once leave it."""
    cache = tmp_path_factory.mktemp("warm")
    first, second = [process(cache) for _ in range(2)]
    assert printed_by(first) == printed_by(second)
    return cache


@pytest.fixture
def own(warm: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(warm, tmp_path / "own")


def test_a_cache_holds_files_that_others_cannot_write_and_nothing_else(warm: Path) -> None:
    found = {path.relative_to(warm): path.stat().st_mode for path in warm.rglob("*")}
    folders = [Path("thalweg"), Path("thalweg/kernels")]
    assert [found.pop(folder) for folder in folders] == [0o040700] * 2
    assert list(found.values()) == [0o100600] * FILES
    assert {path.suffix for path in found} == {".kernel"}


def test_a_damaged_or_renamed_file_is_not_read(own: Path) -> None:
    one, other, *_ = kernels(own)
    good = one.read_bytes()
    damaged = [b"", b"damaged", good[:-1], good[:-1000] + bytes(1000), other.read_bytes()]
    for content in damaged:
        one.write_bytes(content)
        assert read(one) is None
    one.write_bytes(good)
    assert read(one)


class Trace:
    """Whoever unpickles it makes a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.touch, (self.trace,)


@pytest.fixture
def planted(own: Path) -> Path:
    """The file that an unpickled kernel of the cache makes."""
    trace = own / "trace"
    for file in kernels(own):
        write(file, pickle.dumps(Trace(trace)))
    return trace


def test_what_this_user_alone_has_written_is_run(own: Path, planted: Path) -> None:
    """Without this, the tests below would pass for planted files that nobody could run."""
    process(own).wait()
    assert planted.exists()


def given_away(file: Path) -> None:
    os.chown(file, SOMEBODY, SOMEBODY)


def open_to_all(file: Path) -> None:
    file.chmod(file.stat().st_mode | 0o002)


def open_to_a_group(file: Path) -> None:
    file.chmod(file.stat().st_mode | 0o020)


def linked(file: Path) -> None:
    elsewhere = file.parents[2] / file.name
    file.rename(elsewhere)
    file.symlink_to(elsewhere)


def linked_hard(file: Path) -> None:
    (file.parents[2] / file.name).hardlink_to(file)


@pytest.mark.parametrize(
    "plant",
    [
        pytest.param(given_away, marks=needs_root),
        open_to_all,
        open_to_a_group,
        linked,
        linked_hard,
    ],
)
def test_a_file_that_others_could_have_written_is_not_read(
    plant: Callable[[Path], None], own: Path
) -> None:
    file = kernels(own)[0]
    assert read(file)
    plant(file)
    assert read(file) is None


def test_files_that_are_not_read_are_replaced(own: Path, planted: Path) -> None:
    one, *others = kernels(own)
    open_to_all(one)
    for other in others:
        other.write_bytes(b"damaged")
    printed_by(process(own))
    assert not planted.exists()
    assert all(map(read, kernels(own)))


def test_a_folder_that_others_can_write_to_is_not_used(own: Path, planted: Path) -> None:
    open_to_a_group(own / "thalweg/kernels")
    before = {file: file.read_bytes() for file in kernels(own)}
    printed_by(process(own))
    assert not planted.exists()
    assert {file: file.read_bytes() for file in kernels(own)} == before


def link_of_another(cache: Path) -> None:
    cache.rename(cache.with_name("elsewhere"))
    cache.symlink_to(cache.with_name("elsewhere"))
    os.chown(cache, SOMEBODY, SOMEBODY, follow_symlinks=False)


def link_by_an_open_folder(cache: Path) -> None:
    """A link to a link that others can turn."""
    cache.rename(cache.with_name("elsewhere"))
    open_to = cache.with_name("open")
    open_to.mkdir()
    open_to.chmod(0o777)
    (open_to / "turned").symlink_to(cache.with_name("elsewhere"))
    cache.symlink_to(open_to / "turned")


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(given_away, marks=needs_root),
        pytest.param(link_of_another, marks=needs_root),
        open_to_all,
        open_to_a_group,
        link_by_an_open_folder,
    ],
)
def test_a_cache_whose_place_others_can_change_is_no_cache(
    change: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache / "below"))
    assert cache_folder("kernels") == cache / "below/thalweg/kernels"
    change(cache)
    with pytest.raises(PermissionError, match="Other users can change"):
        cache_folder("kernels")


def test_a_link_of_ones_own_and_a_sticky_folder_are_fine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sticky").mkdir()
    (tmp_path / "sticky").chmod(0o1777)
    (tmp_path / "sticky/cache").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("sticky/cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "link"))
    folder = cache_folder("kernels")
    assert folder.resolve() == tmp_path / "sticky/cache/thalweg/kernels"
    folder.chmod(0o1777)
    with pytest.raises(PermissionError, match="Other users can write"):
        cache_folder("kernels")


def test_first_steps_in_threads_share_what_they_compile(tmp_path: Path) -> None:
    printed_by(process(tmp_path, FIRST_STEPS_IN_THREADS))
    assert len(kernels(tmp_path)) == FILES


def test_a_step_needs_no_room_on_a_disk(tmp_path: Path) -> None:
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n" + STEP
    printed_by(process(tmp_path, full))
    assert kernels(tmp_path) == []


def test_the_text_of_a_printed_module_is_found() -> None:
    text = "def inverse(x):\n    return 1 / x\n"
    module = load(text)
    assert load(text) is module
    assert inspect.getsource(module.inverse) == text
    with pytest.raises(ZeroDivisionError) as failure:
        module.inverse(0)
    assert str(failure.traceback[-1].statement).strip() == "return 1 / x"
