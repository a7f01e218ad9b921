"""Tasks: their parts, how one is found and checked, and the tasks that come with the package."""

from thalweg.tasks.check import check
from thalweg.tasks.data import Data
from thalweg.tasks.find import bundled, find
from thalweg.tasks.task import Score, Task

__all__ = ["Data", "Score", "Task", "bundled", "check", "find"]
