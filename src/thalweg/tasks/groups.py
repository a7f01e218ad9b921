"""The parameter groups of a task, as routes of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from thalweg.arguments import require_list, short
from thalweg.errors import UserError
from thalweg.random_numbers import drawing
from thalweg.recipe import Recipe
from thalweg.routes import Route, listed
from thalweg.schedules import Schedule
from thalweg.tasks.task import Task
from thalweg.tasks.user_code import failure_in_training


def with_groups(task: Task, recipe: Recipe) -> Recipe:
    """The recipe with the settings of the task's groups, as in PyTorch.

    If a group gives a number as its `lr`, the schedule of the recipe's `lr` applies to it. Routes
    whose names the recipe already has are left out: the winner of a race has them.
    """
    if task.groups is None:
        return recipe
    known = {one.name for one in recipe.routes}
    (first, *_) = recipe.rates.values()
    routes = []
    for one in groups_of(task):
        settings = dict(one.settings)
        if isinstance(first, Schedule) and isinstance(settings.get("lr"), int | float):
            settings["lr"] = first.scaled(settings["lr"])
        if one.name not in known:
            routes.append(replace(one, settings=settings))
    return replace(recipe, routes=(*recipe.routes, *routes))


def groups_of(task: Task) -> list[Route]:
    """A route for each group that has settings of its own.

    Raises UserError for groups that are malformed, have parameters of another model, or miss some.
    """
    assert task.groups is not None
    with failure_in_training(task), drawing(0):
        model = task.fresh_model()
        groups = require_list("The groups of a task", task.groups(model), "a list of dictionaries")
    names = {id(param): name for name, param in model.named_parameters()}
    left = {name for name, param in model.named_parameters() if param.requires_grad}
    found = []
    for number, group in enumerate(groups):
        if not isinstance(group, Mapping) or "params" not in group:
            raise UserError(
                f'group {number} of task {task.name} must be a dictionary such as {{"params":'
                f' model.head.parameters(), "lr": 0.01}}, not {short(group)}.'
            )
        own = [one[1] if isinstance(one, tuple) else one for one in listed(group["params"])]
        if any(id(param) not in names for param in own):
            raise UserError(
                f"group {number} of task {task.name} has something that is no parameter of the"
                " model that was given to the function groups."
            )
        to = tuple(names[id(param)] for param in own)
        left -= set(to)
        settings = {name: value for name, value in group.items() if name != "params"}
        if settings and to:
            found.append(Route(to, settings=settings, name=f"group {number}"))
    if left:
        raise UserError(
            f"no group of task {task.name} has {', '.join(sorted(left)[:5])}: add them to a group,"
            " or freeze them in the model with requires_grad_(False)."
        )
    return found
