"""Settings for all tests, and for the processes that they start."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import settings
from playwright.sync_api import Browser, sync_playwright
from threadpoolctl import threadpool_limits

from pages import CHROMIUM, FLAGS

# The tensors are small and two tests run side by side: threads would only wait for each other.
os.environ["OMP_NUM_THREADS"] = "1"

import torch

threadpool_limits(1, "blas")  # a plugin has loaded it before the environment was set

# Kernels of chains that only tests have do not belong among the user's.
CACHE = Path(__file__).parents[1] / ".cache"
os.environ["XDG_CACHE_HOME"] = str(CACHE)
os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(CACHE / "inductor")

# The same examples every time, however long a busy machine takes over one.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def timings_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Endless folders that nobody has used."""
    folder = tmp_path_factory.mktemp("timings")
    return (folder / str(number) for number in count())


@pytest.fixture(autouse=True)
def no_earlier_timings(timings_folders: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test measures for itself."""
    from thalweg.racing import timings  # not before the environment is set

    folder = next(timings_folders)
    folder.mkdir()
    monkeypatch.setattr(timings, "cache_folder", lambda _: folder)


@pytest.fixture
def two_threads() -> Iterator[None]:
    """PyTorch with two threads for the time of the test."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()
