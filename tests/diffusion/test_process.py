"""The noise processes: diffusers' own formulas, round trips between all parametrisations, and what is refused."""

import dataclasses
import math

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from diffusers.training_utils import compute_snr

from continuous_unet.base.errors import InputError
from continuous_unet.diffusion.flow import Flow
from continuous_unet.diffusion.options import PROCESSES, FlowOptions, VariancePreservingOptions
from continuous_unet.diffusion.process import Noised, process_of
from continuous_unet.diffusion.samplers import FLOW_SCHEDULERS
from continuous_unet.diffusion.variance_preserving import PREDICTION_TYPES, VariancePreserving

TIMES = torch.tensor([0, 100, 500, 998])
FRACTIONAL = torch.tensor([0.25, 100.0, 500.5, 997.9], dtype=torch.float64)
SCHEDULES = {
    "linear": {},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "zero terminal SNR": {"rescale_betas_zero_snr": True},
}


def parts(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(4, 3, 8, 8, generator=generator, dtype=dtype) for _ in range(2))


@pytest.fixture(params=SCHEDULES, ids=str)
def schedule(request):
    return SCHEDULES[request.param]


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_noising_is_diffusers_own_to_the_last_bit(kind, schedule):
    clean, noise = parts()
    scheduler = DDPMScheduler(prediction_type=kind, **schedule)
    noised = process_of(scheduler).add_noise(clean, noise, TIMES)
    expected = {"epsilon": noise, "sample": clean, "v_prediction": scheduler.get_velocity(clean, noise, TIMES)}
    assert torch.equal(noised.x_t, scheduler.add_noise(clean, noise, TIMES))
    assert torch.equal(noised.target, expected[kind])
    assert noised.weight is None


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_the_noisy_image_follows_the_table_whatever_the_sampler(kind):
    """Euler's own `add_noise` does not preserve the variance, and DPM-Solver's uses rounded sigmas."""
    clean, noise = parts()
    expected = process_of(DDPMScheduler(prediction_type=kind)).add_noise(clean, noise, TIMES)
    for name in ("DPMSolverMultistepScheduler", "EulerDiscreteScheduler", "PNDMScheduler", "UniPCMultistepScheduler"):
        noised = process_of(getattr(diffusers, name)(beta_end=0.02, prediction_type=kind)).add_noise(
            clean, noise, TIMES
        )
        torch.testing.assert_close(noised.x_t, expected.x_t, rtol=0, atol=1e-5)
        torch.testing.assert_close(noised.target, expected.target, rtol=0, atol=1e-5)


@pytest.mark.parametrize("times", [TIMES, FRACTIONAL], ids=["whole", "fractional"])
@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_predictions_go_back_to_image_and_noise(kind, times, schedule):
    """In all parametrisations the target leads to clean and noise, and these to the target of any other kind."""
    clean, noise = parts(torch.float64)
    process = process_of(DDPMScheduler(prediction_type=kind, **schedule))
    noised = process.add_noise(clean, noise, times)
    image, unit = (f(noised.target, noised.x_t, times) for f in (process.to_clean, process.to_noise))
    torch.testing.assert_close(image, clean, rtol=0, atol=2e-4)  # the table itself is float32
    torch.testing.assert_close(unit, noise, rtol=0, atol=2e-4)
    for other in PREDICTION_TYPES:
        again = process_of(DDPMScheduler(prediction_type=other, **schedule)).add_noise(image, unit, times)
        expected = process_of(DDPMScheduler(prediction_type=other, **schedule)).add_noise(clean, noise, times)
        torch.testing.assert_close(again.x_t, noised.x_t, rtol=0, atol=2e-4)
        torch.testing.assert_close(again.target, expected.target, rtol=0, atol=2e-4)


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_one_time_gives_what_a_time_for_each_image_gives(kind, schedule):
    clean, noise = parts()
    scheduler = DDPMScheduler(prediction_type=kind, **schedule)
    process = process_of(scheduler)
    for time in TIMES.tolist():
        alpha_bar = float(scheduler.alphas_cumprod[time])  # the formulas in double precision, as sampling uses them
        alpha, sigma = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
        image = {
            "sample": clean,
            "v_prediction": alpha * noise - sigma * clean,
            "epsilon": (noise - sigma * clean) / alpha,
        }[kind]
        unit = clean if kind == "epsilon" else (noise - alpha * image) / sigma
        for times in (time, torch.tensor(time), torch.full((4,), time)):
            assert torch.equal(process.to_clean(clean, noise, times), image)
            assert torch.equal(process.to_noise(clean, noise, times), unit)
        assert process.coefficients(time) == (alpha, sigma)


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_a_whole_time_may_be_a_float(kind, schedule):
    clean, noise = parts()
    process = VariancePreserving(DDPMScheduler(prediction_type=kind, **schedule), min_snr_gamma=5.0)
    first, second = (process.add_noise(clean, noise, times) for times in (TIMES, TIMES.float()))
    assert all(torch.equal(getattr(first, name), getattr(second, name)) for name in ("x_t", "target", "weight"))
    for back in (process.to_clean, process.to_noise):
        assert torch.equal(back(clean, noise, TIMES), back(clean, noise, TIMES.float()))
    assert process.coefficients(100) == process.coefficients(100.0)


def test_noise_grows_steadily_between_whole_times(schedule):
    """Halfway between two times, the ratio of noise to signal is the geometric mean of theirs."""
    process = process_of(DDPMScheduler(**schedule))
    for time in TIMES.tolist()[:3]:
        (signal, noise), *ends = (process.coefficients(t) for t in (time + 0.5, time, time + 1))
        ratios = [end[1] / end[0] for end in ends]
        assert signal**2 + noise**2 == pytest.approx(1, abs=1e-12)
        assert noise / signal == pytest.approx((ratios[0] * ratios[1]) ** 0.5, rel=1e-6)


def test_time_at_inverts_the_ratio_of_noise_to_signal(schedule):
    process = process_of(DDPMScheduler(**schedule))
    levels = [process.coefficients(time) for time in FRACTIONAL.tolist()]
    ratios = torch.tensor([noise / signal for signal, noise in levels], dtype=torch.float64)
    torch.testing.assert_close(process.time_at(ratios), FRACTIONAL, rtol=0, atol=1e-3)
    torch.testing.assert_close(process.time_at(ratios.float()[2]), FRACTIONAL[2].float(), rtol=0, atol=1e-2)
    assert process.time_at(torch.tensor([0.0, 1e9])).tolist() == [0, 999], "the process has no others"
    assert process_of(DDPMScheduler(num_train_timesteps=1)).time_at(torch.tensor([0.1, 9.0])).tolist() == [0, 0]


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_weights_make_all_objectives_the_same_loss(kind):
    """The point of min-SNR: each is the loss of the clean image with the weight min(SNR, gamma)."""
    clean, noise = parts()
    scheduler = DDPMScheduler(prediction_type=kind)
    process = VariancePreserving(scheduler, min_snr_gamma=5.0)
    guess = clean + 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    noisy = process.add_noise(clean, noise, TIMES).x_t
    of_noise = process_of(DDPMScheduler(prediction_type="sample"))
    prediction = process.add_noise(guess, of_noise.to_noise(guess, noisy, TIMES), TIMES).target
    snr = compute_snr(scheduler, TIMES)
    capped = snr.clamp(max=5)
    weights = {"epsilon": capped / snr, "v_prediction": capped / (snr + 1), "sample": capped}[kind]
    assert torch.equal(process.add_noise(clean, noise, TIMES).weight, weights)
    error = (prediction - process.add_noise(clean, noise, TIMES).target).square().mean((1, 2, 3))
    expected = capped * (guess - clean).square().mean((1, 2, 3))
    torch.testing.assert_close(error * weights, expected, rtol=2e-3, atol=1e-7)
    assert process_of(scheduler).add_noise(clean, noise, TIMES).weight is None


def test_epsilon_weights_are_finite_without_any_signal():
    process = VariancePreserving(DDPMScheduler(rescale_betas_zero_snr=True), min_snr_gamma=5.0)
    clean, noise = parts()
    weight = process.add_noise(clean, noise, torch.full((4,), 999)).weight
    assert weight.isfinite().all()


@pytest.mark.parametrize("count", [1, 10, 1000, 1025])
def test_times_are_drawn_evenly_and_in_range(count):
    process = process_of(DDPMScheduler(num_train_timesteps=count))
    times = process.draw_times((torch.arange(count) + 0.5) / count)
    assert torch.equal(times, torch.arange(count))
    assert process.draw_times(torch.tensor([0.0, 1 - 2**-24])).tolist() == [0, count - 1]


@pytest.mark.parametrize("number", [4, 40, 400])
def test_spread_times_leave_no_part_of_the_range_out(number):
    times = process_of(DDPMScheduler()).spread_times(range(number)).sort().values
    gaps = torch.diff(torch.cat([torch.tensor([0]), times, torch.tensor([1000])]))
    assert gaps.max() <= 2.7 * 1000 / number  # no set of multiples of one number is spread better
    assert torch.equal(process_of(DDPMScheduler()).spread_times([0, 3]), torch.tensor([0, 854]))


def test_nearest_time_inverts_the_ratio_of_noise_to_signal(schedule):
    process = process_of(DDPMScheduler(**schedule))
    for time in TIMES.tolist():
        signal, noise = process.coefficients(time)
        assert process.nearest_time(noise / signal) == time
    assert process.nearest_time(0.0) == 0


def test_samplers_take_over_the_process():
    process = process_of(DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction"))
    sampler = process.make_sampler("dpm++")
    assert isinstance(sampler, DPMSolverMultistepScheduler)
    assert sampler.config.prediction_type == "v_prediction"
    assert torch.equal(process_of(sampler).alphas_cumprod, process.alphas_cumprod)
    with pytest.raises(InputError, match="'heun' does not fit the variance-preserving process; expected one of ddim,"):
        process.make_sampler("heun")
    flow = FlowOptions(shift=3.0).make()
    for name in FLOW_SCHEDULERS:
        assert process_of(flow.make_sampler(name)).shift == 3
    with pytest.raises(InputError, match=r"'ddim' does not fit the flow process; expected one of euler, heun"):
        flow.make_sampler("ddim")


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
def test_estimates_beyond_the_range_do_not_make_noise(kind):
    """Guidance goes beyond [-1, 1]; what DDIM cut off there came back as noise at the next step."""
    training = DDPMScheduler(prediction_type=kind, beta_schedule="squaredcos_cap_v2")
    process = VariancePreserving(training)
    sampler, noise = process.make_sampler("ddim"), torch.randn(4096, generator=torch.Generator().manual_seed(0))
    sampler.set_timesteps(100)
    state = noise
    for time in sampler.timesteps[:90]:
        signal, sigma = process.coefficients(int(time))
        unit = (state - 1.5 * signal) / sigma  # of a model that is sure of 1.5
        state = sampler.step(signal * unit - sigma * 1.5 if kind == "v_prediction" else unit * 0 + 1.5, time, state)[0]
    signal, sigma = process.coefficients(int(sampler.timesteps[90]))
    torch.testing.assert_close((state - 1.5 * signal) / sigma, noise, atol=0.05, rtol=0)
    made = VariancePreservingOptions(objective=kind).make()
    assert made.scheduler.config.clip_sample is False, "diffusers' own DDIM would cut it off"


def test_options_make_the_process():
    options = VariancePreservingOptions(noise_schedule="scaled_linear", num_train_timesteps=50, min_snr_gamma=5.0)
    process = options.validate().make()
    assert (process.prediction_type, process.num_train_timesteps, process.min_snr_gamma) == ("epsilon", 50, 5.0)
    plain = DDPMScheduler(num_train_timesteps=50, beta_schedule="scaled_linear")
    assert process.scheduler.to_json_string() == plain.to_json_string()
    zero = options.make(default_objective="v_prediction", zero_terminal_snr=True)
    assert zero.prediction_type == "v_prediction"
    assert zero.coefficients(49) == (0, 1)
    assert zero.scheduler.config.clip_sample is False
    assert VariancePreservingOptions(objective="sample").make(default_objective="epsilon").prediction_type == "sample"
    for wrong, message in (
        ({"num_train_timesteps": 0}, "--num-train-timesteps 0 must be at least 1"),
        ({"min_snr_gamma": 0.0}, "--min-snr-gamma 0.0 must be above 0"),
        ({"min_snr_gamma": float("nan")}, "--min-snr-gamma nan must be finite"),
    ):
        with pytest.raises(InputError, match=message):
            VariancePreservingOptions(**wrong).validate()


def test_every_process_is_named_by_its_options():
    for name, options in PROCESSES.items():
        process = options().make()
        assert process.name == name
        assert isinstance(process_of(process.scheduler), type(process))
        assert isinstance(process.add_noise(*parts(), TIMES), Noised)
        assert process.for_images(32, 32).options() == process_of(process.scheduler).options()


@pytest.mark.parametrize("options", [FlowOptions(), FlowOptions(0.5, 2.0, 3.0, 50)], ids=["plain", "shifted"])
def test_flow_matching_is_the_straight_line(options):
    process, (clean, noise) = options.make(), parts(torch.float64)
    times = torch.tensor([0, 0.1, 0.5, 1], dtype=torch.float64) * options.num_train_timesteps
    noised = process.add_noise(clean, noise, times)
    assert torch.equal(noised.x_t[3], noise[3])
    assert torch.equal(noised.x_t[0], clean[0])
    torch.testing.assert_close(noised.x_t[2], (clean[2] + noise[2]) / 2)
    assert torch.equal(noised.target, noise - clean)
    torch.testing.assert_close(process.to_clean(noised.target, noised.x_t, times), clean)
    torch.testing.assert_close(process.to_noise(noised.target, noised.x_t, times), noise)
    for time in times.tolist()[:3]:
        signal, unit = process.coefficients(time)
        assert float(process.time_at(torch.tensor(unit / signal))) == pytest.approx(time, abs=1e-4)
        assert process.nearest_time(unit / signal) == pytest.approx(time)
    assert process.coefficients(process.last_time) == (0, 1)
    assert process.options() == options or options.shift is None


@pytest.mark.parametrize(("mean", "std", "shift"), [(0.0, 1.0, 1.0), (-0.5, 0.7, 1.0), (0.0, 1.0, 3.0)])
def test_flow_times_are_logit_normal_and_shifted(mean, std, shift):
    process = FlowOptions(mean, std, shift).make()
    t = process.draw_times((torch.arange(1000, dtype=torch.float64) + 0.5) / 1000) / 1000
    logits = torch.logit(t)  # a shift multiplies t / (1 - t)
    assert float(logits.mean()) == pytest.approx(mean + math.log(shift), abs=1e-3)
    assert float(logits.std()) == pytest.approx(std, rel=0.01)
    extreme = process.draw_times(torch.tensor([0.0, 1 - 2**-24]))
    assert 0 < extreme[0] < extreme[1] < 1000
    ratios = [noise / signal for signal, noise in map(process.coefficients, process.sampling_times(4)[1:])]
    assert ratios == pytest.approx([shift * r for r in (3, 1, 1 / 3)])


def test_larger_images_shift_the_times():
    process = FlowOptions().make()
    assert [process.for_images(*size).shift for size in ((16, 16), (32, 32), (64, 64), (32, 128))] == [1, 1, 2, 2]
    assert FlowOptions(shift=1.5).make().for_images(64, 64).shift == 1.5
    assert process_of(process.for_images(64, 64).scheduler).shift == 2, "it is saved with the model"


OTHERS = {
    "flow matching, other times": lambda: diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    "flow matching, backwards": lambda: diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
    "flow sigmas": lambda: DPMSolverMultistepScheduler(use_flow_sigmas=True),
    "EDM": lambda: diffusers.EDMEulerScheduler(),
    "EDM, DPM-Solver": lambda: diffusers.EDMDPMSolverMultistepScheduler(),
    "consistency": lambda: diffusers.CMStochasticIterativeScheduler(),
    "continuous times": lambda: diffusers.EulerDiscreteScheduler(timestep_type="continuous"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_families_are_refused_by_name(name):
    scheduler = OTHERS[name]()
    with pytest.raises(InputError) as caught:
        process_of(scheduler)
    message = str(caught.value)
    assert type(scheduler).__name__ in message
    assert "not supported; expected a scheduler of one of these kinds: variance-preserving" in message
    assert "\n" not in message
    with pytest.raises(InputError, match="is not the scheduler of a variance-preserving process"):
        VariancePreserving(scheduler)
    with pytest.raises(InputError, match="is not a scheduler of flow matching"):
        Flow(scheduler)


def test_a_model_without_scheduler_has_no_process():
    with pytest.raises(InputError, match="no noise schedule"):
        process_of(None)


def test_thresholding_does_not_leave_for_an_export():
    process = process_of(DDIMScheduler(thresholding=True))
    with pytest.raises(InputError, match="thresholding=True cannot be exported"):
        process.describe()


@pytest.mark.parametrize("zero", [False, True])
def test_options_are_found_again(zero):
    options = VariancePreservingOptions("v_prediction", "squaredcos_cap_v2", 50, 5.0)
    assert options.make(zero_terminal_snr=zero).options() == options
    assert process_of(options.make().make_sampler("dpm++")).options() == dataclasses.replace(
        options, min_snr_gamma=None
    )


@pytest.mark.parametrize("other", [{"beta_end": 0.01}, {"trained_betas": [0.1] * 1000}])
def test_a_process_that_no_options_make_is_refused(other):
    with pytest.raises(InputError, match=r"no noise process like this model's \(DDPMScheduler with"):
        process_of(DDPMScheduler(**other)).options()
