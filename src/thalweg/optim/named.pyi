# Printed by tests/stubs.py.
from torch.optim.optimizer import ParamsT

from thalweg.optim.drop_in import NamedOptimizer
from thalweg.recipe import Setting

__all__ = [
    "SGD",
    "AMSGrad",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "DeltaBarDelta",
    "Lamb",
    "Lion",
    "Momentum",
    "Muon",
    "NAdam",
    "Nesterov",
    "RAdam",
    "RMSprop",
]

class Adadelta(NamedOptimizer):
    """The gradient over its running size, times the running size of the steps.

        q <- rho q + (1 - rho) g g
        d = sqrt(s + eps) / sqrt(q + eps) g
        s <- rho s + (1 - rho) d d
        theta <- theta - lr d

    `square_avg` is q and `acc_delta` is s, of the parameter's shape, 0 at the start: the first
    steps have the size of sqrt(eps), so `eps` is tuned too. Zeiler 2012, where lr is 1.

    lr: finite and at least 0; tuned from 0.01 to 100, even in log x.
    rho: at least 0 and below 1; tuned from 0.8 to 0.99, even in log(1 - x).
    eps: finite and at least 0; tuned from 1e-08 to 0.001, even in log x.
    weight_decay: finite and at least 0.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: Setting = 1.0,
        rho: Setting = 0.9,
        eps: Setting = 1e-06,
        weight_decay: Setting = 0.0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None: ...

class Adafactor(NamedOptimizer):
    """Adafactor for matrices of m rows and n columns.

        R <- (1 - t^beta2_decay) R + t^beta2_decay (mean of g g over each row)
        C <- (1 - t^beta2_decay) C + t^beta2_decay (mean of g g over each column)
        v = R C / max(mean(R), eps1)

    With this v the step is that of `AdafactorVectors`. `row_var` is R, `[m, 1]`, and `col_var` is
    C, `[1, n]`. PyTorch factors the last two dimensions of a convolution's kernel instead.

    lr: finite and at least 0; tuned from 0.0001 to 1, even in log x.
    beta2_decay: finite and at most 0.
    eps: finite and at least 0.
    d: finite and at least 1.
    weight_decay: finite and at least 0; tuned from 0.0001 to 1, even in log x.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: Setting = 0.01,
        beta2_decay: Setting = -0.8,
        eps: tuple[Setting, Setting] = (0.0, 0.001),
        d: Setting = 1.0,
        weight_decay: Setting = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
    ) -> None: ...

class Adagrad(NamedOptimizer):
    """r <- r + g g; theta <- theta - lr g / (eps + sqrt(r))

    `sum` is r, of the parameter's shape, `initial_accumulator_value` at the start. It never falls,
    so no rate ever rises; the rate of a parameter with small gradients falls less. `eps` is the
    lecture's delta: 1e-6 there, 1e-10 in PyTorch and here. `lr_decay` divides the rate by
    1 + (t - 1) lr_decay, as in PyTorch; the formula has none. Duchi, Hazan and Singer 2011.

    lr: finite and at least 0; tuned from 0.001 to 1, even in log x.
    lr_decay: finite and at least 0.
    weight_decay: finite and at least 0.
    initial_accumulator_value: finite and at least 0.
    eps: finite and at least 0.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: Setting = 0.01,
        lr_decay: Setting = 0.0,
        weight_decay: Setting = 0.0,
        initial_accumulator_value: Setting = 0.0,
        eps: Setting = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None: ...

class Adam(NamedOptimizer):
    """Momentum over RMSProp, both corrected for their start at zero.

        v <- beta1 v + (1 - beta1) g
        r <- beta2 r + (1 - beta2) g g
        theta <- theta - lr / (1 - beta1^t) v / (eps + sqrt(r) / sqrt(1 - beta2^t))

    The root comes before the correction, as r / (1 - beta2^t) may overflow where its root does not.
    `betas` are the lecture's rho1 and rho2, `eps` its delta (1e-6 there, 1e-8 here and in PyTorch).
    `exp_avg` is v and `exp_avg_sq` is r, of the parameter's shape. Kingma and Ba 2015.

    With amsgrad: `thalweg.rules.AMSGrad`.
    lr: finite and at least 0; tuned from 1e-05 to 1, even in log x.
    betas: at least 0 and below 1; tuned from 0.5 to 0.99, even in log(1 - x) and from 0.8 to
        0.9999, even in log(1 - x).
    eps: finite and at least 0.
    weight_decay: finite and at least 0.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: Setting = 0.001,
        betas: tuple[Setting, Setting] = (0.9, 0.999),
        eps: Setting = 1e-08,
        weight_decay: Setting = 0.0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
    ) -> None: ...

class AdamW(NamedOptimizer):
    """Momentum over RMSProp, both corrected for their start at zero.

        v <- beta1 v + (1 - beta1) g
        r <- beta2 r + (1 - beta2) g g
        theta <- theta - lr / (1 - beta1^t) v / (eps + sqrt(r) / sqrt(1 - beta2^t))

    The root comes before the correction, as r / (1 - beta2^t) may overflow where its root does not.
    `betas` are the lecture's rho1 and rho2, `eps` its delta (1e-6 there, 1e-8 here and in PyTorch).
    `exp_avg` is v and `exp_avg_sq` is r, of the parameter's shape. Kingma and Ba 2015.

    With amsgrad: `thalweg.rules.AMSGrad`.
    lr: finite and at least 0; tuned from 1e-05 to 1, even in log x.
    betas: at least 0 and below 1; tuned from 0.5 to 0.99, even in log(1 - x) and from 0.8 to
        0.9999, even in log(1 - x).
    eps: finite and at least 0.
    weight_decay: finite and at least 0; tuned from 0.0001 to 1, even in log x.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: Setting = 0.001,
        betas: tuple[Setting, Setting] = (0.9, 0.999),
        eps: Setting = 1e-08,
        weight_decay: Setting = 0.01,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None: ...

class AMSGrad(NamedOptimizer):
    """Adam with the largest r so far in place of r.

    The maximum is taken before the correction, as PyTorch does; the paper corrects nothing.
    `max_exp_avg_sq` has the parameter's shape. Reddi, Kale and Kumar 2018.

    lr: finite and at least 0; tuned from 1e-05 to 1, even in log x.
    betas: at least 0 and below 1; tuned from 0.5 to 0.99, even in log(1 - x) and from 0.8 to
        0.9999, even in log(1 - x).
    eps: finite and at least 0.
    weight_decay: finite and at least 0.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: Setting = 0.001,
        betas: tuple[Setting, Setting] = (0.9, 0.999),
        eps: Setting = 1e-08,
        weight_decay: Setting = 0.0,
        *,
        maximize: bool = False,
    ) -> None: ...

class DeltaBarDelta(NamedOptimizer):
    """Each rate grows while the gradient agrees with its past, and shrinks when it does not.

        gain <- gain + increase          where g * grad_avg > 0
        gain <- gain * (1 - decrease)    where g * grad_avg < 0
        grad_avg <- smoothing grad_avg + (1 - smoothing) g
        theta <- theta - lr gain g

    The rate of a parameter is lr * gain, and gain is 1 at the start; `increase` is Jacobs' kappa in
    units of `lr`, so that cooling acts on every rate; `decrease` is his phi, `smoothing` his theta.
    With `smoothing` 0 the gradient is compared with the last one alone. `gain` and `grad_avg` have
    the parameter's shape. Jacobs 1988.

    lr: finite and at least 0; tuned from 0.001 to 10, even in log x.
    increase: finite and at least 0; tuned from 0.01 to 0.5, even in log x.
    decrease: at least 0 and at most 1; tuned from 0.05 to 0.5, even in x.
    smoothing: at least 0 and below 1.
    weight_decay: finite and at least 0.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: Setting = 0.01,
        increase: Setting = 0.05,
        decrease: Setting = 0.1,
        smoothing: Setting = 0.7,
        weight_decay: Setting = 0.0,
        *,
        maximize: bool = False,
    ) -> None: ...

class Lamb(NamedOptimizer):
    """Adam whose steps have a length of lr |theta| in each tensor.

        v <- beta1 v + (1 - beta1) g
        r <- beta2 r + (1 - beta2) g g
        u = v / (1 - beta1^t) / (eps + sqrt(r) / sqrt(1 - beta2^t)) + weight_decay theta
        theta <- theta - lr |theta| / |u| u

    The norms are over one tensor; where one of them is 0, the step is lr u. The decay is a part of
    u, and neither norm is bounded. Packages that clip the gradient by its norm first do what
    `chain(clip_norm(1.0), lamb())` does. `exp_avg` is v and `exp_avg_sq` is r, of the parameter's
    shape. You et al. 2020.

    lr: finite and at least 0; tuned from 1e-05 to 1, even in log x.
    betas: at least 0 and below 1; tuned from 0.5 to 0.99, even in log(1 - x) and from 0.8 to
        0.9999, even in log(1 - x).
    eps: finite and at least 0.
    weight_decay: finite and at least 0; tuned from 0.0001 to 1, even in log x.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: Setting = 0.001,
        betas: tuple[Setting, Setting] = (0.9, 0.999),
        eps: Setting = 1e-06,
        weight_decay: Setting = 0.01,
        *,
        maximize: bool = False,
    ) -> None: ...

class Lion(NamedOptimizer):
    """theta <- theta - lr sign(beta1 m + (1 - beta1) g); m <- beta2 m + (1 - beta2) g

    `exp_avg` is m, of the parameter's shape. Every element moves by `lr` at every step, so `lr` is
    3 to 10 times smaller than Adam's. Chen et al. 2023.

    lr: finite and at least 0; tuned from 1e-06 to 0.1, even in log x.
    betas: at least 0 and below 1; tuned from 0.5 to 0.99, even in log(1 - x) and from 0.8 to
        0.999, even in log(1 - x).
    weight_decay: finite and at least 0; tuned from 0.0001 to 1, even in log x.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: Setting = 0.0001,
        betas: tuple[Setting, Setting] = (0.9, 0.99),
        weight_decay: Setting = 0.0,
        *,
        maximize: bool = False,
    ) -> None: ...

class Momentum(NamedOptimizer):
    """v <- momentum v - lr g; theta <- theta + v

    `momentum` is gamma in [0, 1): 0 is plain descent, near 1 the whole history of gradients counts;
    0.5, 0.9 and 0.99 are typical. It is gamma that makes plain descent at 0, not the rate alpha.
    `velocity` is v, of the parameter's shape, 0 at the start. It has the learning rate inside,
    unlike the buffer of `torch.optim.SGD`: when `lr` cools, past gradients keep the rate of their
    own time. Polyak 1964.

    lr: finite and at least 0; tuned from 0.0001 to 1, even in log x.
    momentum: at least 0 and below 1; tuned from 0.5 to 0.99, even in log(1 - x).
    weight_decay: finite and at least 0.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: Setting = 0.01,
        momentum: Setting = 0.9,
        weight_decay: Setting = 0.0,
        *,
        maximize: bool = False,
    ) -> None: ...

class Muon(NamedOptimizer):
    """Momentum of a matrix, made orthogonal.

        v <- momentum v + (1 - momentum) g
        u = (1 - momentum) g + momentum v;  without nesterov u = v
        theta <- theta - lr s orthogonal(u)

    s is sqrt(max(1, m / n)) for a matrix of m rows and n columns; with `adjust_lr_fn` at
    "match_rms_adamw" it is 0.2 sqrt(max(m, n)), which keeps AdamW's `lr`. PyTorch rounds u to
    bfloat16 before it is made orthogonal, ours keeps its precision: they agree to about 4e-3.
    `momentum_buffer` is v, of the parameter's shape. For hidden matrices alone; give embeddings,
    the last layer and vectors to another rule. Jordan et al. 2024.

    lr: finite and at least 0; tuned from 0.0001 to 1, even in log x.
    weight_decay: finite and at least 0; tuned from 0.0001 to 1, even in log x.
    momentum: at least 0 and at most 1; tuned from 0.8 to 0.99, even in log(1 - x).
    nesterov: True or False.
    ns_coefficients: at least -100 and at most 100.
    eps: finite and at least 0.
    ns_steps: a whole number from 1 to 99.
    adjust_lr_fn: 'original' or 'match_rms_adamw'.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: Setting = 0.001,
        weight_decay: Setting = 0.1,
        momentum: Setting = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[Setting, Setting, Setting] = (3.4445, -4.775, 2.0315),
        eps: Setting = 1e-07,
        ns_steps: int = 5,
        adjust_lr_fn: str = "original",
    ) -> None: ...

class NAdam(NamedOptimizer):
    """Adam whose momentum is warmed, and already counts the coming step's.

        mu(t) = beta1 (1 - 0.96^(t momentum_decay) / 2);  P <- P mu(t)
        v <- beta1 v + (1 - beta1) g
        r <- beta2 r + (1 - beta2) g g
        theta <- theta - lr [(1 - mu(t)) / (1 - P) g + mu(t+1) / (1 - P mu(t+1)) v]
                            / (eps + sqrt(r) / sqrt(1 - beta2^t))

    `exp_avg` is v and `exp_avg_sq` is r, of the parameter's shape; `mu_product` is P, one number.
    Dozat 2016.

    lr: finite and at least 0; tuned from 1e-05 to 1, even in log x.
    betas: at least 0 and below 1; tuned from 0.5 to 0.99, even in log(1 - x) and from 0.8 to
        0.9999, even in log(1 - x).
    eps: finite and at least 0.
    weight_decay: finite and at least 0.
    momentum_decay: finite and at least 0.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: Setting = 0.002,
        betas: tuple[Setting, Setting] = (0.9, 0.999),
        eps: Setting = 1e-08,
        weight_decay: Setting = 0.0,
        momentum_decay: Setting = 0.004,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None: ...

class Nesterov(NamedOptimizer):
    """v <- momentum v - lr grad L(theta + momentum v); theta <- theta + v

    The model holds the look-ahead point phi = theta + momentum v, so that its gradient is the one
    the formula asks for; evaluation is at theta. `ahead` is the momentum that phi was made with:
    the coming step's, which a schedule tells in advance. Its rate O(1/i^2) is for convex,
    full-batch problems with the right momentum at each step, not for mini-batches.
    Nesterov 1983; Sutskever et al. 2013.

    lr: finite and at least 0; tuned from 0.0001 to 1, even in log x.
    momentum: at least 0 and below 1; tuned from 0.5 to 0.99, even in log(1 - x).
    weight_decay: finite and at least 0.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: Setting = 0.01,
        momentum: Setting = 0.9,
        weight_decay: Setting = 0.0,
        *,
        maximize: bool = False,
    ) -> None: ...

class RAdam(NamedOptimizer):
    """Adam with a warm-up that follows from beta2.

        n_inf = 2 / (1 - beta2) - 1;  n = n_inf - 2 t beta2^t / (1 - beta2^t)
        v <- beta1 v + (1 - beta1) g
        r <- beta2 r + (1 - beta2) g g
        where n > 5:
            s = sqrt((n - 4) (n - 2) n_inf / ((n_inf - 4) (n_inf - 2) n))
            theta <- theta - lr s / (1 - beta1^t) v sqrt(1 - beta2^t) / (eps + sqrt(r))
        else:
            theta <- theta - lr / (1 - beta1^t) v

    n is how many gradients r is the mean of. With the default beta2 the first five steps divide by
    nothing. As in PyTorch, n is compared with 5, where the paper says 4, and `eps` is added before
    the correction. `exp_avg` is v and `exp_avg_sq` is r, of the parameter's shape. Liu et al. 2020.

    lr: finite and at least 0; tuned from 1e-05 to 1, even in log x.
    betas: at least 0 and below 1; tuned from 0.5 to 0.99, even in log(1 - x) and from 0.8 to
        0.9999, even in log(1 - x).
    eps: finite and at least 0.
    weight_decay: finite and at least 0.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: Setting = 0.001,
        betas: tuple[Setting, Setting] = (0.9, 0.999),
        eps: Setting = 1e-08,
        weight_decay: Setting = 0.0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None: ...

class RMSprop(NamedOptimizer):
    """r <- alpha r + (1 - alpha) g g; theta <- theta - lr g / (eps + sqrt(r))

    `alpha` is the lecture's rho, `eps` its delta, outside the root as in PyTorch. `square_avg` is
    r, of the parameter's shape, 0 at the start and not corrected for it.
    Hinton, Coursera lecture 6e, 2012.

    With centered: `thalweg.rules.CenteredRMSprop`.
    With momentum: `thalweg.rules.RMSpropMomentum`.
    With centered and momentum: `thalweg.rules.CenteredRMSpropMomentum`.
    lr: finite and at least 0; tuned from 1e-05 to 1, even in log x.
    alpha: at least 0 and below 1; tuned from 0.8 to 0.999, even in log(1 - x).
    eps: finite and at least 0.
    weight_decay: finite and at least 0.
    momentum: at least 0 and below 1; tuned from 0.5 to 0.99, even in log(1 - x).
    """

    def __init__(
        self,
        params: ParamsT,
        lr: Setting = 0.01,
        alpha: Setting = 0.99,
        eps: Setting = 1e-08,
        weight_decay: Setting = 0.0,
        momentum: Setting = 0.0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None: ...

class SGD(NamedOptimizer):
    """theta <- theta - lr g

    `lr` is the learning rate alpha, `g` the gradient of the mini-batch's mean loss.
    Robbins and Monro 1951.

    With momentum: `thalweg.rules.SGDMomentum`.
    With momentum and nesterov: `thalweg.rules.SGDNesterov`.
    lr: finite and at least 0; tuned from 0.001 to 10, even in log x.
    momentum: at least 0 and below 1; tuned from 0.5 to 0.99, even in log(1 - x).
    dampening: finite and at least 0.
    weight_decay: finite and at least 0.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: Setting = 0.001,
        momentum: Setting = 0.0,
        dampening: Setting = 0.0,
        weight_decay: Setting = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None: ...
