"""A conformance kit: whether an optimizer or a rule does what users of PyTorch rely on."""

from thalweg.testing.kit import ConformanceError as ConformanceError
from thalweg.testing.kit import check_optimizer as check_optimizer
from thalweg.testing.kit import check_rule as check_rule
from thalweg.testing.kit import optimizer_checks as optimizer_checks
from thalweg.testing.kit import rule_checks as rule_checks
