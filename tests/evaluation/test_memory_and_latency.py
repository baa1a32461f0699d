import pytest
import torch
from torch import nn

from continuous_unet.base.errors import InputError
from continuous_unet.evaluation import measure_latency, peak_memory, saved_bytes


def test_saved_bytes_of_a_product():
    a, b = torch.randn(100, requires_grad=True), torch.randn(100, requires_grad=True)
    assert saved_bytes(lambda: a * b).activations == 2 * 400
    assert saved_bytes(lambda: a * b, parameters=[a]) == saved_bytes(lambda: a * b, parameters=[a])
    saved = saved_bytes(lambda: a * b, parameters=[a])
    assert (saved.activations, saved.parameters) == (400, 400)


def test_a_storage_counts_once():
    a = torch.randn(100, requires_grad=True)
    assert saved_bytes(lambda: a * a).activations == 400


def test_what_autograd_let_go_does_not_count():
    a = torch.randn(100, requires_grad=True)

    def forward():
        (a * a).exp()  # a graph that dies at once
        return a.sin()

    assert saved_bytes(forward).activations == 400


def test_peak_memory_counts_what_lives_together():
    device = torch.device("cpu")

    def one_after_the_other():
        for _ in range(5):
            torch.zeros(1000)

    def all_at_once():
        return [torch.zeros(1000) for _ in range(5)]

    assert peak_memory(one_after_the_other, device=device)[0] == 4000
    assert peak_memory(all_at_once, device=device)[0] == 20000
    x = torch.zeros(1000)
    assert peak_memory(lambda: x.view(10, 100).add_(1), device=device)[0] == 0  # views and in-place work make nothing


def test_training_needs_more_than_inference():
    model, x = nn.Sequential(*(nn.Linear(64, 64) for _ in range(8))), torch.randn(16, 64)
    with torch.no_grad():
        inference, method = peak_memory(model, x, device=torch.device("cpu"))
    training, _ = peak_memory(lambda: model(x).sum().backward(), device=torch.device("cpu"))
    assert method == "tensor storages"
    assert training > 3 * inference


def test_latency_is_interleaved_and_relative_to_the_first():
    calls, now = [], [0.0]

    def take(name, seconds):
        def function():
            calls.append(name)
            now[0] += seconds

        return function

    functions = {"a": take("a", 0.010), "b": take("b", 0.025)}
    result = measure_latency(functions, repeats=4, warmup=2, clock=lambda: now[0])
    assert calls == ["a", "b"] * 6
    assert result["a"].median_ms == pytest.approx(10)
    assert result["b"].median_ms == pytest.approx(25)
    assert result["b"].ratio == pytest.approx(2.5)
    assert result["a"].repeats == 4


def test_after_a_rest_one_call_does_not_count():
    seconds, now = iter([0.1, 0.01] * 6), [0.0]

    def function():
        now[0] += next(seconds)

    result = measure_latency({"a": function}, repeats=4, warmup=2, rest=1e-4, clock=lambda: now[0])
    assert result["a"].median_ms == pytest.approx(10)


def test_nothing_to_time_is_an_error():
    with pytest.raises(InputError, match="nothing can be timed"):
        measure_latency({})
