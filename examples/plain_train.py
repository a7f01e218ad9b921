"""A training program with arguments that knows nothing of thalweg, and is not imported by it.

    thalweg race --command 'python examples/plain_train.py --optimizer {optimizer} --lr {lr}
        --decay {decay} --seed {seed}' --metric 'val_loss: (.*)' --direction min
        --space examples/plain_train.toml --entrants sgd,adam --trials 6 --seeds 12

It fits a line in ten dimensions to noisy data, in Python alone.
"""

import argparse
import math
import random

parser = argparse.ArgumentParser()
parser.add_argument("--optimizer", choices=["sgd", "adam"], default="adam")
parser.add_argument("--lr", type=float, default=1e-2)
parser.add_argument("--decay", type=float, default=0.1)
parser.add_argument("--seed", type=int, default=0)
arguments = parser.parse_args()

rng = random.Random(0)
slopes = [(-1) ** i / (i + 1) for i in range(10)]
points = [[rng.gauss(0, 1 + i) for i in range(10)] for _ in range(120)]
values = [sum(s * x for s, x in zip(slopes, p, strict=True)) + rng.gauss(0, 1) for p in points]

rng = random.Random(arguments.seed)
weights = [rng.gauss(0, 0.1) for _ in slopes]
squares = [0.0] * len(weights)
for step in range(1, 201):
    chosen = rng.randrange(80)
    wrong = sum(w * x for w, x in zip(weights, points[chosen], strict=True)) - values[chosen]
    for i, x in enumerate(points[chosen]):
        gradient = wrong * x + arguments.decay * weights[i]
        if arguments.optimizer == "adam":
            squares[i] = 0.99 * squares[i] + 0.01 * gradient * gradient
            gradient /= math.sqrt(squares[i] / (1 - 0.99**step)) + 1e-8
        weights[i] -= arguments.lr * gradient
    if step % 50 == 0:
        errors = [
            sum(w * x for w, x in zip(weights, p, strict=True)) - value
            for p, value in zip(points[80:], values[80:], strict=True)
        ]
        print(f"step {step} val_loss: {sum(error * error for error in errors) / len(errors):.6g}")
