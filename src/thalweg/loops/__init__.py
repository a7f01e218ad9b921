"""Training loops of a user. They can race, be compared, and be watched by the doctor."""

from thalweg.loops.loop import Loop as Loop
from thalweg.loops.loop import loop as loop
from thalweg.loops.program import program as program
from thalweg.loops.run import Run as Run
