"""Compares methods and gradient modes with torchdiffeq and torchode: error per evaluation, gradients, memory, time.

    python benchmarks/solvers.py                # rows to benchmarks/results/solvers-*.csv, targets to the screen
    python benchmarks/solvers.py --quick        # fewer repeats, to see that it runs

Times are those of one training step (forward and backward) of a field of the size that the models use. They are
measured in turns in one process, and given as a ratio to backpropagation through the same method and steps.
"""

import argparse
import json
import math
import platform
from pathlib import Path
from typing import Any

import torch
import torchode
from rows import write
from torch import Tensor

from continuous_unet.evaluation import measure_latency, saved_bytes
from continuous_unet.models.conditioning import Conditioning
from continuous_unet.models.fields import FIELDS, FieldConfig
from continuous_unet.ode import METHODS, Damped, State, integrate, split_field

GENERAL = "x'' = -sin x - 0.3 v |v|^0.5 + 0.2 x cos 2t, t in [0, 3]"
DAMPED = "x'' = -sin x + 0.2 x cos 2t - 0.5 v, t in [0, 3]"


def general(t: Any, x: Tensor, v: Tensor) -> Tensor:
    return -torch.sin(x) - 0.3 * v * v.abs().sqrt() + 0.2 * x * math.cos(2 * float(t))


damped = split_field(lambda t, x: Damped(-torch.sin(x) + 0.2 * x * math.cos(2 * float(t)), torch.full_like(x, 0.5)))


def accuracy_rows() -> list[dict[str, Any]]:
    """Returns the final error of position and velocity, relative to RK4 with 4,000 steps, by number of evaluations."""
    generator = torch.Generator().manual_seed(0)
    start = State(*(torch.randn(64, generator=generator, dtype=torch.float64) for _ in range(2)))
    rows = []
    for problem, field in ((GENERAL, general), (DAMPED, damped)):
        exact = integrate(field, start, num_steps=4000, t1=3.0, method="rk4").state

        def error(end: State, exact: State = exact) -> float:
            return float(torch.cat([end.x - exact.x, end.v - exact.v]).square().mean().sqrt())

        for name, method in METHODS.items():
            if method.uses_terms and field is general:
                continue
            for evaluations in (4, 8, 16, 32):
                steps = evaluations // method.evaluations_per_step
                solution = integrate(field, start, num_steps=steps, t1=3.0, method=name)
                assert solution.nfe == evaluations
                row = {"library": "continuous-unet", "method": name, "num_steps": steps, "nfe": evaluations}
                rows.append({"problem": problem, **row, "error": error(solution.state)})
        for tolerance in (1e-1, 1e-2, 1e-3):
            solution = integrate(field, start, t1=3.0, method="dopri5", rtol=tolerance, atol=tolerance)
            row = {"library": "torchdiffeq", "method": f"dopri5, tolerance {tolerance:g}", "num_steps": ""}
            rows.append({"problem": problem, **row, "nfe": solution.nfe, "error": error(solution.state)})
            end, nfe = solve_torchode(field, start, tolerance)
            row = {"library": "torchode", "method": f"dopri5, tolerance {tolerance:g}", "num_steps": ""}
            rows.append({"problem": problem, **row, "nfe": nfe, "error": error(end)})
    return rows


def solve_torchode(field: Any, start: State, tolerance: float) -> tuple[State, int]:
    """Solves the same problem with torchode, which steps each sample separately; evaluations are of the whole batch."""

    def derivative(t: Tensor, y: Tensor) -> Tensor:
        x, v = y.chunk(2, dim=1)
        # our field takes one time for the batch, torchode has one per sample: evaluate sample by sample
        a = torch.stack([field(ti, xi, vi) for ti, xi, vi in zip(t, x, v, strict=True)])
        return torch.cat([v, a], dim=1)

    term = torchode.ODETerm(derivative)
    controller = torchode.IntegralController(atol=tolerance, rtol=tolerance, term=term)
    solver = torchode.AutoDiffAdjoint(torchode.Dopri5(term=term), controller)
    y0 = torch.stack([start.x, start.v], dim=1)
    times = torch.tensor([[0.0, 3.0]], dtype=y0.dtype).expand(len(y0), 2)
    solution = solver.solve(torchode.InitialValueProblem(y0=y0, t_eval=times))
    end = solution.ys[:, -1]
    return State(end[:, 0], end[:, 1]), int(solution.stats["n_f_evals"].max())


def neural_field(form: str, channels: int) -> Any:
    torch.manual_seed(0)
    field = FIELDS[form](FieldConfig(channels, emb_channels=128, horizon=4.0, norm_num_groups=8))
    for name, parameter in field.named_parameters():
        if "target" in name or name.startswith("out"):  # last layers start at zero: give them trained-like values
            torch.nn.init.normal_(parameter, std=0.02)
    return field


CASES = [
    ("general", "reversible_leapfrog", ("backprop", "reversible", "checkpoint")),
    ("relaxation", "kick_drift", ("backprop", "reversible", "checkpoint")),
    ("relaxation", "drift_kick_drift", ("backprop", "reversible", "checkpoint")),
    ("general", "heun", ("backprop", "checkpoint", "adjoint")),
    ("general", "rk4", ("backprop", "checkpoint", "adjoint")),
]


def training_rows(batch: int, channels: int, size: int, repeats: int) -> list[dict[str, Any]]:
    """Returns gradient error, saved bytes and time of a training step, for 2, 4 and 64 steps (64: memory only)."""
    rows = []
    fields = {form: neural_field(form, channels) for form in ("general", "relaxation")}
    inputs = [torch.randn(batch, channels, size, size, requires_grad=True) for _ in range(2)]
    emb = torch.randn(batch, 128, requires_grad=True)

    def forward(form: str, method: str, gradient: str, steps: int, t1: float) -> State:
        options = {"num_steps": steps, "t1": t1, "method": method, "gradient": gradient, "args": (Conditioning(emb),)}
        return integrate(fields[form], State(*inputs), **options).state

    def gradients(*case: Any) -> list[Tensor]:
        state = forward(*case)
        wanted = [*inputs, emb, *fields[case[0]].parameters()]
        return torch.autograd.grad((state.x.square() + state.v).mean(), wanted, allow_unused=True)

    for steps, t1 in ((2, 2.0), (4, 4.0), (4, 1.0), (64, 4.0)):
        block = []
        for form, method, modes in CASES:
            reference = gradients(form, method, "backprop", steps, t1) if steps < 64 else None
            times = {}
            if steps < 64 and t1 == steps:
                timed = {mode: lambda mode=mode: gradients(form, method, mode, steps, t1) for mode in modes}  # noqa: B023
                times = measure_latency(timed, repeats=repeats, warmup=2)
            for mode in modes:
                case = (form, method, mode, steps, t1)
                parameters = fields[form].parameters()
                saved = saved_bytes(forward, *case, parameters=parameters).activations
                library = "torchdiffeq" if mode == "adjoint" else "continuous-unet"
                row = {"library": library, "field": form, "method": method, "gradient": mode, "num_steps": steps}
                row |= {"t1": t1, "nfe": METHODS[method].num_evaluations(steps), "saved_bytes": saved}
                if reference is not None:
                    row["gradient_error"] = gradient_error(gradients(*case), reference)
                if mode in times:
                    time = times[mode]
                    row |= {"step_ms": time.median_ms, "time_to_backprop": time.ratio}
                    row |= {"time_to_backprop_p25": time.ratio_p25, "time_to_backprop_p75": time.ratio_p75}
                block.append(row)
        rows += block
        print(f"  {steps} steps to t = {t1:g} done", flush=True)
    return rows


def gradient_error(ours: list[Tensor], reference: list[Tensor]) -> float:
    """Returns the largest relative difference (2-norm, per tensor) over inputs, conditioning and parameters."""
    pairs = [(a, b) for a, b in zip(ours, reference, strict=True) if b is not None and float(b.norm()) > 0]
    return max(float((a - b).norm() / b.norm()) for a, b in pairs)


def targets(accuracy: list[dict[str, Any]], training: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the project's targets with what was measured."""

    def rows(**wanted: Any) -> list[dict[str, Any]]:
        return [r for r in training if all(r[k] == v for k, v in wanted.items())]

    results = []

    def add(what: str, value: float, limit: float) -> None:
        results.append({"target": what, "measured": value, "limit": limit, "met": bool(value <= limit)})

    reversible = sorted({r["method"] for r in rows(gradient="reversible")})
    for method in reversible:
        saved = {r["num_steps"]: r["saved_bytes"] for r in rows(gradient="reversible", method=method)}
        add(f"{method}: bytes saved by reversible at 64 steps / at 2", saved[64] / saved[2], 1.05)
        errors = [r["gradient_error"] for r in rows(gradient="reversible", method=method) if "gradient_error" in r]
        add(f"{method}: gradient error of reversible, float32", max(errors), 1e-5)
        for row in rows(gradient="reversible", method=method):
            if "step_ms" in row:
                steps = row["num_steps"]
                add(f"{method}: step time reversible / backprop, {steps} steps", row["time_to_backprop"], 1.5)
                (adjoint,) = (r for r in rows(method="rk4", gradient="adjoint", num_steps=steps) if "step_ms" in r)
                ratio = row["step_ms"] / adjoint["step_ms"]
                add(f"{method}: step time reversible / torchdiffeq RK4 adjoint, {steps} steps", ratio, 0.5)
    by = {(r["problem"], r["method"], r["nfe"]): r["error"] for r in accuracy}
    for problem, method in ((GENERAL, "reversible_leapfrog"), (DAMPED, "drift_kick_drift")):
        for nfe in (4, 8):
            for other in ("heun", "rk4"):
                ratio = by[problem, method, nfe] / by[problem, other, nfe]
                add(f"{method}: error at {nfe} evaluations / {other}'s", ratio, 1.0)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes and few repeats, to see that it runs")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder of the rows")
    arguments = parser.parse_args()
    batch, channels, size, repeats = (2, 16, 8, 3) if arguments.quick else (8, 64, 32, 15)

    print("accuracy …", flush=True)
    accuracy = accuracy_rows()
    print("training steps …", flush=True)
    training = training_rows(batch, channels, size, repeats)
    results = targets(accuracy, training)
    write(arguments.output / "solvers-accuracy.csv", accuracy)
    write(arguments.output / "solvers-training.csv", training)
    write(arguments.output / "solvers-targets.csv", results)
    setting = {
        "command": f"python benchmarks/solvers.py{' --quick' if arguments.quick else ''}",
        "field": f"two 3x3 convolutions, {channels} channels, {size}x{size}, batch {batch}",
        "repeats": repeats,
        "machine": f"{platform.machine()} CPU, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "torchode": torchode.__version__ if hasattr(torchode, "__version__") else "",
    }
    (arguments.output / "solvers-setting.json").write_text(json.dumps(setting, indent=1) + "\n", encoding="utf-8")
    for row in results:
        print(f"{'met ' if row['met'] else 'MISS'}  {row['measured']:10.3g} <= {row['limit']:<7g} {row['target']}")


if __name__ == "__main__":
    main()
