"""The named optimizers as recipes, made of their records; `named.pyi` says what each takes."""

from thalweg.recipe import function_of
from thalweg.rules import NAMED

RECIPES = {named.recipe: function_of(named, __name__) for named in NAMED.values()}
globals().update({function.__name__: function for function in RECIPES.values()})
__all__ = [function.__name__ for function in RECIPES.values()]
