"""Orders, stages, forms, reversal."""

import math

import pytest
import torch

from continuous_unet.ode import METHODS, Damped, Relaxation, State, integrate, split_field
from continuous_unet.ode.loop import Problem, evaluator

from .problems import ALL_METHODS, PROBLEMS, REVERSIBLE_METHODS, SOLVABLE


def error(problem, method, num_steps):
    solution = integrate(problem.field, problem.state(), num_steps=num_steps, t1=problem.t1, method=method)
    return math.hypot(float(solution.state.x) - problem.end[0], float(solution.state.v) - problem.end[1])


def slope(errors):
    return math.log2(errors[0] / errors[1])


@pytest.mark.parametrize(("name", "method"), SOLVABLE)
def test_order_by_slope(name, method):
    num_steps = 60 if METHODS[method].order == 4 else 320
    errors = [error(PROBLEMS[name], method, n) for n in (num_steps, 2 * num_steps)]
    assert slope(errors) == pytest.approx(METHODS[method].order, abs=0.1)


def test_the_problem_tells_an_order_2_method_from_velocity_verlet():
    """The textbook scheme evaluates f with the old velocity; on a problem with damping that costs it an order."""
    problem = PROBLEMS["damped_oscillator"]

    def verlet(num_steps):
        (x, v), h = problem.state(), problem.t1 / num_steps
        a = problem.field(0.0, x, v)
        for n in range(num_steps):
            x = x + h * v + h * h / 2 * a
            after = problem.field((n + 1) * h, x, v)
            v, a = v + h / 2 * (a + after), after
        return math.hypot(float(x) - problem.end[0], float(v) - problem.end[1])

    assert slope([verlet(160), verlet(320)]) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("method", ALL_METHODS)
@pytest.mark.parametrize("num_steps", [1, 3])
def test_evaluations_are_counted_and_as_declared(method, num_steps):
    times = []

    def terms(t, x):
        assert type(t) is float
        times.append(t)
        return Damped(-x, torch.ones_like(x))

    state = PROBLEMS["damped_oscillator"].state()
    solution = integrate(split_field(terms), state, num_steps=num_steps, t0=1.0, t1=2.5, method=method)
    assert solution.nfe == len(times) == METHODS[method].num_evaluations(num_steps)
    assert solution.num_steps == num_steps
    assert all(1.0 <= t <= 2.5 for t in times)


NODES = {
    "reversible_leapfrog": [1.25, 1.75],
    "drift_kick_drift": [1.25, 1.75],
    "kick_drift": [1.0, 1.5],
    "semi_implicit_euler": [1.0, 1.5],
    "midpoint": [1.0, 1.25, 1.5, 1.75],
    "heun": [1.0, 1.5, 1.5, 2.0],
    "rk4": [1.0, 1 + 1 / 6, 1 + 1 / 3, 1.5, 1.5, 1.5 + 1 / 6, 1.5 + 1 / 3, 2.0],
}


@pytest.mark.parametrize("method", ALL_METHODS)
def test_the_field_is_evaluated_at_the_nodes(method):
    times = []

    def terms(t, x):
        times.append(t)
        return Damped(-x, torch.ones_like(x))

    state = PROBLEMS["damped_oscillator"].state()
    integrate(split_field(terms), state, num_steps=2, t0=1.0, t1=2.0, method=method)
    assert times == pytest.approx(NODES[method])


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint", "reversible"])
@pytest.mark.parametrize("method", ALL_METHODS)
def test_a_method_knows_its_times_to_the_bit(method, gradient):
    """Tables of embeddings are keyed by them."""
    if gradient == "reversible" and method not in REVERSIBLE_METHODS:
        pytest.skip("not reversible")
    state = PROBLEMS["damped_oscillator"].state()
    for t0, t1, num_steps in ((0.0, 1.0, 3), (0.0, 2.0, 7), (0.1, 0.73, 11), (1.0, -1 / 3, 6)):
        times = []

        def terms(t, x, times=times):
            times.append(t)
            return Damped(-x, torch.ones_like(x))

        integrate(split_field(terms), state, num_steps=num_steps, t0=t0, t1=t1, method=method, gradient=gradient)
        assert tuple(times) == METHODS[method].times(t0, (t1 - t0) / num_steps, num_steps)


@pytest.mark.parametrize("method", ["midpoint", "heun", "rk4"])
def test_same_values_as_torchdiffeq(method):
    torchdiffeq = pytest.importorskip("torchdiffeq")
    problem = PROBLEMS["driven_relaxation"]
    ours = integrate(problem.field, problem.state(), num_steps=3, t1=problem.t1, method=method).state
    times = torch.linspace(0, problem.t1, 4, dtype=torch.float64)
    theirs = torchdiffeq.odeint(
        lambda t, y: (y[1], problem.field(float(t), *y)),
        tuple(problem.state()),
        times,
        method=METHODS[method].torchdiffeq_name,
    )
    torch.testing.assert_close(ours.x, theirs[0][-1], rtol=1e-13, atol=0)
    torch.testing.assert_close(ours.v, theirs[1][-1], rtol=1e-13, atol=0)


@pytest.mark.parametrize("method", ["dopri5", "bosh3"])
def test_adaptive_methods_meet_their_tolerance(method):
    pytest.importorskip("torchdiffeq")
    problem = PROBLEMS["nonlinear_drag"]
    solution = integrate(problem.field, problem.state(), t1=problem.t1, method=method, rtol=1e-8, atol=1e-10)
    assert float(solution.state.x) == pytest.approx(problem.end[0], abs=1e-5)
    assert solution.num_steps is None
    assert solution.nfe > 10


def test_backwards_in_time_undoes_forwards():
    problem = PROBLEMS["driven_relaxation"]
    end = integrate(problem.field, problem.state(), num_steps=50, t1=1.0, method="rk4").state
    start = integrate(problem.field, end, num_steps=50, t0=1.0, t1=0.0, method="rk4").state
    torch.testing.assert_close(start.x, problem.state().x, atol=1e-7, rtol=0)


FORMS = {
    "relaxation": Relaxation(torch.tensor([0.7, -0.3]).double(), torch.tensor([0.4, 2.0]).double()),
    "damped": Damped(torch.tensor([0.7, -0.3]).double(), torch.tensor([0.4, 2.0]).double()),
    "damped, lightly": Damped(torch.tensor([0.7, -0.3]).double(), torch.tensor([1e-3, 1.1e-3]).double()),
    "damped, hardly": Damped(torch.tensor([0.7, -0.3]).double(), torch.tensor([1e-9, 0.0]).double()),
}


@pytest.mark.parametrize("name", FORMS)
def test_kick_is_the_exact_solution_and_can_be_undone(name):
    form, v = FORMS[name], torch.tensor([1.3, -2.0]).double()
    h, n = 0.8, 4000
    fine = v
    for _ in range(n):  # midpoint rule on v' = acceleration(v)
        fine = fine + h / n * form.acceleration(fine + h / n / 2 * form.acceleration(fine))
    torch.testing.assert_close(form.kick(v, h), fine, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(form.inverse_kick(form.kick(v, h), h), v, rtol=1e-12, atol=1e-12)


def test_limits_of_the_forms():
    target, v = torch.tensor([0.7]).double(), torch.tensor([2.0]).double()
    stiff = Relaxation(target, torch.tensor([1e9]).double())
    assert torch.equal(stiff.kick(v, 1.0), target)  # the first-order limit
    free = Relaxation(target, torch.tensor([0.0]).double())
    assert torch.equal(free.kick(v, 1.0), v)  # ballistic
    undamped = Damped(target, torch.tensor([0.0]).double())
    torch.testing.assert_close(undamped.kick(v, 0.5), v + 0.5 * target)
    damping = torch.tensor([1.7]).double()
    same = Relaxation(target / damping, damping)
    torch.testing.assert_close(Damped(target, damping).kick(v, 0.5), same.kick(v, 0.5))


def test_kick_drift_with_infinite_rate_is_a_weight_tied_residual_network():
    function = lambda x: torch.sin(3 * x)  # noqa: E731
    field = split_field(lambda t, x: Relaxation(function(x), torch.full_like(x, 1e9)))
    state = State(torch.randn(5).double(), torch.randn(5).double())
    x = state.x
    for _ in range(3):
        x = x + function(x)
    torch.testing.assert_close(integrate(field, state, num_steps=3, t1=3.0, method="kick_drift").state.x, x)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 5e-5)])
@pytest.mark.parametrize("method", REVERSIBLE_METHODS)
def test_reversal_over_the_whole_path(method, dtype, tolerance):
    field = split_field(lambda t, x: Relaxation(torch.sin(2 * x) + t, 0.5 + 0.4 * torch.cos(x)))
    if method == "reversible_leapfrog":  # under damping its auxiliary velocity grows, and rounding errors with it
        tolerance *= 20
    scheme = METHODS[method]
    problem = Problem(field, scheme, num_steps=8, t0=0.0, t1=4.0, name="test")
    evaluate = evaluator(problem, (), None)
    path = [scheme.start(State(torch.randn(100, dtype=dtype), torch.randn(100, dtype=dtype)))]
    for n in range(8):
        path.append(scheme.step(evaluate, problem.time(n), problem.step_size, path[-1]))
    carry = path[-1]
    for n in reversed(range(8)):
        carry = scheme.inverse(evaluate, problem.time(n), problem.step_size, carry)
        for ours, theirs in zip(carry, path[n], strict=True):
            torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)


def test_exact_damping_is_stable_where_leapfrog_is_not():
    field = split_field(lambda t, x: Damped(-x, torch.full_like(x, 4.0)))
    start = State(torch.ones(1).double(), torch.zeros(1).double())
    ends = {
        method: float(integrate(field, start, num_steps=16, t1=16.0, method=method).state.x.abs())
        for method in ("drift_kick_drift", "reversible_leapfrog")
    }
    assert ends["drift_kick_drift"] < 0.1
    assert ends["reversible_leapfrog"] > 1e6
