"""The pages about other libraries: their programs run as they stand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

PAGES = Path(__file__).parents[1] / "docs" / "neighbours"
LIBRARIES = {
    "lightning": "lightning",
    "hugging_face": "transformers",
    "optuna": "optuna",
    "ray": "ray",
    "mlflow": "mlflow",
    "skorch": "skorch",
}


def test_there_is_a_page_for_each() -> None:
    assert {page.stem for page in PAGES.glob("*.md")} == LIBRARIES.keys()


@pytest.mark.parametrize("name", LIBRARIES)
def test_the_programs_of_a_page_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(LIBRARIES[name])
    monkeypatch.chdir(tmp_path)
    programs = re.findall(r"```python\n(.*?)```", (PAGES / f"{name}.md").read_text(), re.DOTALL)
    assert programs
    for place, program in enumerate(programs):
        names: dict[str, Any] = {"__name__": f"program_{place}"}
        exec(compile(program, f"{name}.md", "exec"), names)
