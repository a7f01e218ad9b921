"""A new criterion is one new file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import thalweg
from thalweg.doctor.criteria import CRITERIA

NEW = '''
from thalweg.doctor.criteria import names
from thalweg.doctor.criteria.criterion import Fact, Suspicion, criterion, exactly
from thalweg.doctor.curvature.condition_number import ConditionNumber
from thalweg.doctor.trials.trial import Remedy


@criterion(25)
def steep_start(case):
    """The loss is above 0.1 at the first step."""
    step, seen = case.history.first(ConditionNumber)
    return Suspicion(
        "steep start",
        sentence=f"The loss is {case.history.steps[0].loss:.3g} at the start.",
        prescription="a start that is nearer",
        standing="A test says so.",
        facts=(Fact("condition number", exactly(seen.value), step),),
        remedies=(Remedy("a rate of 0.01", lambda recipe: recipe.replace(lr=0.01)),),
        explains=(names.RATE_TOO_LOW,),
    )
'''

SCRIPT = """
import json, pydoc, sys
import thalweg as tw

found = tw.diagnose("cliff", tw.adam(lr=1e-3))
page = found.report(sys.argv[1]).read_text()
print(json.dumps([str(found), page, pydoc.plain(pydoc.render_doc(tw.diagnose))]))
"""


def test_a_criterion_in_one_new_file_is_in_the_diagnosis_the_report_and_the_help(
    tmp_path: Path,
) -> None:
    package = tmp_path / "src" / "thalweg"
    shutil.copytree(
        Path(thalweg.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__")
    )
    (package / "doctor" / "criteria" / "steep_start.py").write_text(NEW)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "doctor.html")],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "src")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    diagnosis, page, told = json.loads(done.stdout)
    for text in (diagnosis, page):
        assert "steep start" in text
        assert "a start that is nearer" in text
        assert "a rate of 0.01" in text
    assert "The loss is 0.522 at the start." in diagnosis
    assert "steep start: The loss is above 0.1 at the first step." in told


def test_each_criterion_has_a_place_of_its_own() -> None:
    places = [criterion.place for criterion in CRITERIA]
    assert places == sorted(set(places))
