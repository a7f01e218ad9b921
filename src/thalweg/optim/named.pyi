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
    """The gradient divided by its running size, times the running size of the steps.

        q <- rho q + (1 - rho) g g
        d = sqrt(s + eps) / sqrt(q + eps) g
        s <- rho s + (1 - rho) d d
        theta <- theta - lr d

    `square_avg` is q and `acc_delta` is s. Both have the parameter's shape and begin at 0, so the
    first steps have the size of sqrt(eps), and `eps` is tuned too. Zeiler 2012, where lr is 1.

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

    The step is then computed from v as in `AdafactorVectors`. `row_var` is R, `[m, 1]`, and
    `col_var` is C, `[1, n]`. A convolution's kernel is the matrix that `Rule` describes; PyTorch
    takes its last two dimensions instead.

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

    `sum` is r. It has the parameter's shape and begins at `initial_accumulator_value`. It never
    falls, so no rate ever rises; the rate of a parameter with small gradients falls less. `eps` is
    the lecture's delta: 1e-6 there, 1e-10 in PyTorch and here. `lr_decay` divides the rate by
    1 + (t - 1) lr_decay, as in PyTorch; it is not part of the published formula.
    Duchi, Hazan and Singer 2011.

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
    """Momentum divided by RMSProp's divisor, both corrected for their start at zero.

        v <- beta1 v + (1 - beta1) g
        r <- beta2 r + (1 - beta2) g g
        theta <- theta - lr / (1 - beta1^t) v / (eps + sqrt(r) / sqrt(1 - beta2^t))

    The root is taken before the correction, because r / (1 - beta2^t) may overflow where its root
    does not. `betas` are the lecture's rho1 and rho2. `eps` is its delta: 1e-6 there, 1e-8 in
    PyTorch and here. `exp_avg` is v and `exp_avg_sq` is r; both have the parameter's shape.
    Kingma and Ba 2015.

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
    """Momentum divided by RMSProp's divisor, both corrected for their start at zero.

        v <- beta1 v + (1 - beta1) g
        r <- beta2 r + (1 - beta2) g g
        theta <- theta - lr / (1 - beta1^t) v / (eps + sqrt(r) / sqrt(1 - beta2^t))

    The root is taken before the correction, because r / (1 - beta2^t) may overflow where its root
    does not. `betas` are the lecture's rho1 and rho2. `eps` is its delta: 1e-6 there, 1e-8 in
    PyTorch and here. `exp_avg` is v and `exp_avg_sq` is r; both have the parameter's shape.
    Kingma and Ba 2015.

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

    The maximum is taken before the correction, as in PyTorch; the paper has no correction.
    `max_exp_avg_sq` is this maximum and has the parameter's shape. Reddi, Kale and Kumar 2018.

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
    """A rate grows while the gradient has the sign of its average, and shrinks when it has not.

        gain <- gain + increase          where g * grad_avg > 0
        gain <- gain * (1 - decrease)    where g * grad_avg < 0
        grad_avg <- smoothing grad_avg + (1 - smoothing) g
        theta <- theta - lr gain g

    The rate of a parameter is lr * gain, and gain is 1 at the start. `increase` is Jacobs' kappa in
    units of `lr`, so that a schedule of `lr` acts on every rate. `decrease` is his phi and
    `smoothing` his theta. With `smoothing` 0 the gradient is compared with the last one only.
    `gain` and `grad_avg` have the parameter's shape. Jacobs 1988.

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
    """Adam with steps of the length lr |theta| in each tensor.

        v <- beta1 v + (1 - beta1) g
        r <- beta2 r + (1 - beta2) g g
        u = v / (1 - beta1^t) / (eps + sqrt(r) / sqrt(1 - beta2^t)) + weight_decay theta
        theta <- theta - lr |theta| / |u| u

    The norms are over one tensor and are not bounded. Where one of them is 0, the step is lr u. The
    decay is a part of u. Some packages clip the gradient by its norm first:
    `chain(clip_norm(1.0), lamb())` does the same. `exp_avg` is v and `exp_avg_sq` is r; both have
    the parameter's shape. You et al. 2020.

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

    `exp_avg` is m and has the parameter's shape. Every element moves by `lr` at every step, so a
    good `lr` is 3 to 10 times smaller than for Adam. Chen et al. 2023.

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

    `momentum` is gamma in [0, 1). At 0 the rule is plain gradient descent; near 1 the whole history
    of gradients counts; 0.5, 0.9 and 0.99 are typical. `velocity` is v. It has the parameter's
    shape and begins at 0. It contains the learning rate, unlike the buffer of `torch.optim.SGD`:
    when `lr` falls, past gradients keep the rate at which they were added. Polyak 1964.

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

    s is sqrt(max(1, m / n)) for a matrix of m rows and n columns. With `adjust_lr_fn` at
    "match_rms_adamw" it is 0.2 sqrt(max(m, n)), so that an `lr` for AdamW fits. PyTorch rounds u to
    bfloat16 before making it orthogonal and thalweg does not: they agree to about 4e-3.
    `momentum_buffer` is v and has the parameter's shape. Use this rule for hidden matrices only,
    and another rule for embeddings, the last layer and vectors. Jordan et al. 2024.

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
    """Adam whose momentum is warmed up and includes the momentum of the next step.

        mu(t) = beta1 (1 - 0.96^(t momentum_decay) / 2);  P <- P mu(t)
        v <- beta1 v + (1 - beta1) g
        r <- beta2 r + (1 - beta2) g g
        theta <- theta - lr [(1 - mu(t)) / (1 - P) g + mu(t+1) / (1 - P mu(t+1)) v]
                            / (eps + sqrt(r) / sqrt(1 - beta2^t))

    `exp_avg` is v and `exp_avg_sq` is r; both have the parameter's shape. `mu_product` is P, one
    number. Dozat 2016.

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

    The model holds the look-ahead point phi = theta + momentum v, so that the gradient of the loss
    is the one in the formula. Evaluation uses theta. `ahead` is the momentum with which phi was
    computed, which is the momentum of the next step. The convergence rate O(1/i^2) holds for
    convex, full-batch problems with the right momentum at each step, and not for mini-batches.
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
    """Adam with a warm-up whose length depends on beta2.

        n_inf = 2 / (1 - beta2) - 1;  n = n_inf - 2 t beta2^t / (1 - beta2^t)
        v <- beta1 v + (1 - beta1) g
        r <- beta2 r + (1 - beta2) g g
        where n > 5:
            s = sqrt((n - 4) (n - 2) n_inf / ((n_inf - 4) (n_inf - 2) n))
            theta <- theta - lr s / (1 - beta1^t) v sqrt(1 - beta2^t) / (eps + sqrt(r))
        else:
            theta <- theta - lr / (1 - beta1^t) v

    n is the effective number of gradients in the mean r. With the default beta2 the first five
    steps do not divide by r. As in PyTorch, n is compared with 5 (the paper: 4), and `eps` is added
    before the correction. `exp_avg` is v and `exp_avg_sq` is r; both have the parameter's shape.
    Liu et al. 2020.

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

    `alpha` is the lecture's rho. `eps` is its delta, and is added outside the root as in PyTorch.
    `square_avg` is r. It has the parameter's shape, begins at 0, and is not corrected for this
    start. Hinton, Coursera lecture 6e, 2012.

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

    `lr` is the learning rate alpha, and g is the gradient of the mean loss of the mini-batch.
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
