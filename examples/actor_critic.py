"""An actor-critic without a data set, on an environment that this file holds itself.

    thalweg race examples/actor_critic.py:train --entrants sgd,adam --trials 8 --seeds 12

A walker on a line of 7 places begins in the middle. Each step costs 0.05; the right end pays 1 and
ends the walk, the left end pays nothing and ends it too. The return is that of the learned policy.
"""

import torch
from torch import Tensor, nn

import thalweg as tw

PLACES, COST, LONGEST = 7, 0.05, 30


def seen(place: int) -> Tensor:
    return nn.functional.one_hot(torch.tensor(place), PLACES).float()


def walk(actor: nn.Module, critic: nn.Module) -> tuple[float, Tensor]:
    """The return of one walk, and the loss of the actor and the critic along it."""
    place, total, loss = PLACES // 2, 0.0, torch.zeros(())
    for _ in range(LONGEST):
        choice = torch.distributions.Categorical(logits=actor(seen(place)))
        move, value = choice.sample(), critic(seen(place)).squeeze()
        place += 2 * int(move) - 1
        ended = place in (0, PLACES - 1)
        reward = float(place == PLACES - 1) - COST
        total += reward
        with torch.no_grad():
            target = reward + (0.0 if ended else critic(seen(place)).squeeze())
        advantage = target - value
        loss = loss + advantage**2 - choice.log_prob(move) * advantage.detach()
        if ended:
            break
    return total, loss


@tw.loop(metric="return", direction="max", steps=60, name="actor-critic")
def train(run: tw.loops.Run) -> float:
    actor, critic = nn.Linear(PLACES, 2), nn.Linear(PLACES, 1)
    optimizer = run.optimizer(nn.ModuleList([actor, critic]))
    for step in run.steps():
        optimizer.zero_grad()
        _, loss = walk(actor, critic)
        loss.backward()
        optimizer.step()
        if step % 20 == 0:
            run.report(returns(actor, critic))
    return returns(actor, critic)


@torch.no_grad()
def returns(actor: nn.Module, critic: nn.Module) -> float:
    return sum(walk(actor, critic)[0] for _ in range(10)) / 10
