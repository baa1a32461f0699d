"""What belongs to one call travels with it: precomputed embeddings, solver steps, threads that share a model."""

import dataclasses
import threading

import pytest
import torch
from diffusers import DDIMScheduler

from continuous_unet import ContinuousUNet2DModel
from continuous_unet.models.conditioning import AdaptiveScaleShift
from continuous_unet.ode import METHODS
from continuous_unet.tasks.generate import pipeline as generation
from continuous_unet.tasks.generate import prediction

SMALL = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (8, 16), "norm_num_groups": 4}
KINDS = {
    **{
        name: {"method": name, "gradient": "backprop", "field_type": "relaxation" if m.uses_terms else "general"}
        for name, m in METHODS.items()
    },
    "first order": {"block_type": "first_order", "method": "rk4", "gradient": "backprop"},
    "residual": {"block_type": "residual", "gradient": "backprop"},
    "adaptive": {"method": "dopri5", "field_type": "general", "gradient": "backprop"},
    "velocity from the timestep": {"initial_velocity": "timestep"},
    "elastic": {"elastic_depth": True, "initial_velocity": "timestep"},
}


def make(**changes):
    unet = ContinuousUNet2DModel(**{**SMALL, **changes}).eval()
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return unet


@pytest.fixture
def embedded(monkeypatch):
    """The batch sizes with which scales and shifts are computed."""
    sizes = []
    compute = AdaptiveScaleShift.scale_shift
    monkeypatch.setattr(
        AdaptiveScaleShift, "scale_shift", lambda self, t, emb: sizes.append(len(emb)) or compute(self, t, emb)
    )
    return sizes


@pytest.mark.parametrize("kind", KINDS)
def test_solver_steps_of_a_call_are_those_of_set_solver(kind):
    unet, x = make(**KINDS[kind]), torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        for num_steps in (1, 3):
            once = unet(x, 5, num_solver_steps=num_steps).sample
            known = unet.precompute_embeddings([5.0, 7.0], num_solver_steps=num_steps)
            looked_up = unet(x, 5, num_solver_steps=num_steps, embeddings=known).sample
            assert {stats["num_steps"] for stats in unet.solver_stats().values()} == {2}
            assert unet.config.num_solver_steps == 2
            set_for_all = unet.set_solver(num_steps=num_steps)(x, 5).sample
            unet.set_solver(num_steps=2)
            assert torch.equal(once, set_for_all)
            torch.testing.assert_close(looked_up, set_for_all, atol=1e-6, rtol=1e-5)
            if kind != "adaptive":  # which takes as many as it needs
                assert not torch.allclose(once, unet(x, 5).sample, atol=1e-7)


@pytest.mark.parametrize("elastic_depth", [False, True])
@pytest.mark.parametrize("gradient", ["backprop", "checkpoint", "reversible"])
def test_solver_steps_of_a_call_when_training(gradient, elastic_depth):
    unet, x = make(gradient=gradient, elastic_depth=elastic_depth).train(), torch.randn(2, 1, 8, 8)

    def gradients(**options):
        unet.zero_grad()
        unet(x, torch.tensor([3, 800]), **options).sample.square().mean().backward()
        assert all(p.grad.any() for p in unet.parameters())
        return [p.grad.clone() for p in unet.parameters()]

    once = gradients(num_solver_steps=3)
    unet.set_solver(num_steps=3)
    assert all(torch.equal(a, b) for a, b in zip(once, gradients(), strict=True))
    unet.enable_gradient_checkpointing()
    for a, b in zip(once, gradients(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_solver_steps_of_a_call_are_checked():
    with pytest.raises(ValueError, match="num_steps=0"):
        make()(torch.randn(1, 1, 8, 8), 1, num_solver_steps=0)


@pytest.mark.parametrize("kind", ["kick_drift", "rk4"])
def test_solver_steps_of_a_call_when_compiled(kind):
    torch.compiler.reset()
    unet, x = make(**KINDS[kind], mid_block_type=None, block_out_channels=(8,)), torch.randn(2, 1, 8, 8)
    known = unet.precompute_embeddings([5.0])
    compiled = torch.compile(unet, fullgraph=True, backend="eager")
    with torch.no_grad():
        for num_steps in (1, 3):
            expected = unet(x, 5, num_solver_steps=num_steps).sample
            ours = compiled(x, torch.tensor(5), num_solver_steps=num_steps).sample
            torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-5)
            ours = compiled(x, torch.tensor(5), num_solver_steps=num_steps, embeddings=known).sample
            torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("first order", "adaptive")])
def test_solver_steps_of_a_call_when_exported(kind):
    unet, x = make(**KINDS[kind], mid_block_type=None, block_out_channels=(8,)), torch.randn(2, 1, 8, 8)
    arguments = (x, torch.tensor([5, 7]))
    with torch.no_grad():
        for keep_loop in (False, True):
            unet.set_solver(keep_loop=keep_loop)
            batch = {0: torch.export.Dim("batch", min=1, max=63)}
            shapes = {"sample": batch, "timestep": batch, "num_solver_steps": None}
            program = torch.export.export(unet, arguments, {"num_solver_steps": 3}, dynamic_shapes=shapes, strict=False)
            loops = [node for node in program.graph.nodes if "while_loop" in str(node.target)]
            assert bool(loops) == (keep_loop and kind != "residual")
            ours = program.module()(*arguments, num_solver_steps=3).sample
            torch.testing.assert_close(ours, unet(*arguments, num_solver_steps=3).sample, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", ["kick_drift", "rk4", "residual"])
def test_precomputed_embeddings_are_the_embeddings(kind, embedded):
    unet, x = make(**KINDS[kind]), torch.randn(3, 1, 8, 8)
    timesteps = torch.tensor([900, 500, 3])
    with torch.no_grad():
        expected = [unet(x, t).sample for t in timesteps]
        known = unet.precompute_embeddings(timesteps)
        embedded.clear()
        for t, wanted in zip(timesteps, expected, strict=True):
            torch.testing.assert_close(unet(x, t, embeddings=known).sample, wanted, atol=1e-6, rtol=1e-5)
        assert not embedded
        unet(x, 7, embeddings=known)  # not in the table
        assert set(embedded) == {3}
        embedded.clear()
        each = unet(x, timesteps, embeddings=known).sample  # one per image
        assert set(embedded) == {3}
        torch.testing.assert_close(each[1], expected[1][1], atol=1e-6, rtol=1e-5)
        embedded.clear()
        unet(x, timesteps[0])
        assert embedded  # nothing was kept


def test_precomputed_embeddings_cannot_be_changed_or_used_by_another_model():
    unet = make()
    known = unet.precompute_embeddings([5.0])
    with pytest.raises(dataclasses.FrozenInstanceError):
        known.model = make()
    with pytest.raises(TypeError):
        known.by_timestep[6.0, None] = known.by_timestep[5.0, None]
    with pytest.raises(AttributeError):
        known.by_timestep[5.0, None].embedding = torch.zeros(1)
    with pytest.raises(ValueError, match="another model"):
        make()(torch.randn(1, 1, 8, 8), 5, embeddings=known)


@pytest.mark.parametrize("elastic_depth", [False, True])
def test_embeddings_for_other_solver_steps_than_those_of_the_call(elastic_depth):
    unet, x = make(elastic_depth=elastic_depth), torch.randn(1, 1, 8, 8)
    with torch.no_grad():
        known = unet.precompute_embeddings([5.0], num_solver_steps=2)
        for num_steps in (1, 3, 4):
            expected = unet(x, 5, num_solver_steps=num_steps).sample
            ours = unet(x, 5, num_solver_steps=num_steps, embeddings=known).sample
            torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-5)


def test_gradients_are_not_cut_off_by_the_table():
    unet = make()
    known = unet.precompute_embeddings([5.0])
    unet(torch.randn(1, 1, 8, 8), 5, embeddings=known).sample.sum().backward()
    assert unet.time_embedding.linear_1.weight.grad.abs().max() > 0


TEXT = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(0))
COUNTS = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]]).bool()
CONDITIONED = {
    "classes": ({"num_class_embeds": 5}, {"class_labels": torch.tensor([4, 0, 2, 1])}),
    "text": ({"cross_attention_dim": 6}, {"encoder_hidden_states": TEXT, "encoder_attention_mask": COUNTS}),
    "both": (
        {"cross_attention_dim": 6, "num_class_embeds": 5, "initial_velocity": "timestep"},
        {"encoder_hidden_states": TEXT, "class_labels": torch.tensor([4, 0, 2, 1])},
    ),
}


@pytest.mark.parametrize("kind", CONDITIONED)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_embeddings_of_conditions_are_computed_once_for_all_their_images(kind, groups, embedded):
    settings, conditions = CONDITIONED[kind]
    unet, x = make(**settings), torch.randn(4, 1, 8, 8)
    rows = {name: value[:groups] for name, value in conditions.items()}
    each = {name: value.repeat_interleave(4 // groups, dim=0) for name, value in rows.items()}
    with torch.no_grad():
        known = unet.precompute_embeddings([900.0, 5.0], **rows)
        embedded.clear()
        ours = unet(x, 5, embeddings=known).sample
        assert not embedded
        torch.testing.assert_close(ours, unet(x, 5, **each).sample, atol=1e-6, rtol=1e-5)
        other = unet(x, 7, embeddings=known).sample  # a timestep that is not in the table
        torch.testing.assert_close(other, unet(x, 7, **each).sample, atol=1e-6, rtol=1e-5)
        assert groups == 4 or not torch.allclose(ours, unet(x, 5, **conditions).sample, atol=1e-3)
        if groups > 1:
            with pytest.raises(ValueError, match=f"are for {groups} conditions, which 3 images cannot share"):
                unet(x[:3], 5, embeddings=known)
    with pytest.raises(ValueError, match="pass "):
        unet.precompute_embeddings([1.0])


def test_a_new_model_does_not_depend_on_its_text():
    """Bit for bit, whatever its other weights are."""
    plain, x = make(), torch.randn(4, 1, 8, 8)
    unet = ContinuousUNet2DModel(**SMALL, cross_attention_dim=6).eval()
    assert not unet.load_state_dict(plain.state_dict(), strict=False).unexpected_keys
    with torch.no_grad():
        assert torch.equal(unet(x, 5, **CONDITIONED["text"][1]).sample, plain(x, 5).sample)


@pytest.mark.parametrize("part", ["cross_attentions", "text_embedding"])
def test_tokens_that_do_not_count_make_no_difference_and_the_others_do(part):
    """By each of the two ways into the model alone."""
    unet, x = ContinuousUNet2DModel(**SMALL, cross_attention_dim=6).eval(), torch.randn(4, 1, 8, 8)
    for name, parameter in unet.named_parameters():
        if part in name or not ("cross" in name or "text" in name):
            torch.nn.init.normal_(parameter, std=0.1)

    def predicted(text, mask):
        return unet(x, 5, encoder_hidden_states=text, encoder_attention_mask=mask).sample

    with torch.no_grad():
        reference = predicted(TEXT, COUNTS)
        padded = torch.cat([TEXT, torch.full((4, 3, 6), float("nan"))], dim=1)
        longer = torch.cat([COUNTS, torch.zeros(4, 3, dtype=torch.bool)], dim=1)
        torch.testing.assert_close(predicted(padded, longer), reference, atol=1e-6, rtol=1e-5)
        changed = TEXT + (torch.arange(5) == 0)[:, None]
        each = (predicted(changed, COUNTS) - reference).abs().amax(dim=(1, 2, 3))
        assert each[:3].min() > 1e-3
        assert each[3] == 0  # a text of which no token counts


@pytest.mark.parametrize("gradient", ["reversible", "checkpoint"])
def test_gradients_reach_the_text_in_every_mode(gradient):
    unet, x = make(cross_attention_dim=6).train(), torch.randn(4, 1, 8, 8)
    text = TEXT.clone().requires_grad_()

    def gradients(mode):
        unet.zero_grad()
        text.grad = None
        unet.set_solver(gradient=mode)(x, 5, encoder_hidden_states=text).sample.square().mean().backward()
        return [text.grad.clone(), *(p.grad.clone() for p in unet.parameters())]

    ours, reference = gradients(gradient), gradients("backprop")
    assert all(gradient.any() for gradient in reference)
    for a, b in zip(ours, reference, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-3)


WRONG_TEXTS = {
    "none": ({}, "this model is conditioned on text: pass encoder_hidden_states"),
    "a mask alone": ({"encoder_attention_mask": COUNTS}, "pass encoder_hidden_states"),
    "another width": ({"encoder_hidden_states": TEXT[:, :, :4]}, r"has shape \(4, 5, 4\); expected \(4, L, 6\)"),
    "another batch": ({"encoder_hidden_states": TEXT[:3]}, r"expected \(4, L, 6\)"),
    "another mask": (
        {"encoder_hidden_states": TEXT, "encoder_attention_mask": COUNTS[:, :4]},
        r"encoder_attention_mask has shape \(4, 4\); expected \(4, 5\)",
    ),
}


@pytest.mark.parametrize("kind", WRONG_TEXTS)
def test_texts_that_do_not_fit_are_refused(kind):
    conditions, message = WRONG_TEXTS[kind]
    with pytest.raises(ValueError, match=message):
        make(cross_attention_dim=6)(torch.randn(4, 1, 8, 8), 5, **conditions)
    if kind != "none":
        with pytest.raises(ValueError, match="a model without text"):
            make()(torch.randn(4, 1, 8, 8), 5, **conditions)


def sampled(unet, seed, num_inference_steps):
    pipeline = generation.DiffusionSamplingPipeline(unet, DDIMScheduler())
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(seed)
    return pipeline(2, generator, num_inference_steps, output_type="pt").images


def test_sampling_precomputes_and_gives_the_same_images(monkeypatch, embedded):
    unet = make()
    fast = sampled(unet, 0, 6)
    assert set(embedded) == {6}  # all timesteps at once
    monkeypatch.setattr(prediction, "FEWEST_PRECOMPUTED", 100)
    torch.testing.assert_close(fast, sampled(unet, 0, 6), atol=1e-5, rtol=1e-4)


def test_threads_that_share_a_model_get_what_each_computes_alone():
    """Three threads with a pipeline each, and two that call the model, some with solver steps of their own."""
    unet = make()

    def predicted(seed, num_solver_steps):
        x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            each = [unet(x, t, num_solver_steps=num_solver_steps).sample for t in (900, 500, 3) * 5]
        return torch.stack(each)

    jobs = [[(sampled, unet, 3 * k + thread, 20 + 5 * k) for k in range(3)] for thread in range(3)]
    jobs += [[(predicted, 10 + k, steps) for k in range(3)] for steps in (None, 3)]
    alone = [[function(*arguments) for function, *arguments in own] for own in jobs]
    together = [[] for _ in jobs]

    def work(number):
        for function, *arguments in jobs[number]:
            together[number].append(function(*arguments))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    equal = [[torch.equal(a, b) for a, b in zip(*pair, strict=True)] for pair in zip(alone, together, strict=True)]
    assert equal == [[True] * 3] * 5


def test_the_next_timestep_starts_as_nothing_and_belongs_to_its_image():
    plain, jumping = make(), ContinuousUNet2DModel(**SMALL, next_timestep_embedding=True).eval()
    x = torch.randn(3, 1, 8, 8)
    missing = jumping.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert missing
    assert all("jump_embedding" in name for name in missing)
    with torch.no_grad():
        assert torch.equal(jumping(x, 500, next_timestep=20.5).sample, plain(x, 500).sample)
        torch.nn.init.normal_(jumping.jump_embedding.linear_2.weight, std=0.3)
        starts, ends = torch.tensor([900.0, 500.25, 500.25]), torch.tensor([500.25, 0.0, 100.0])
        together = jumping(x, starts, next_timestep=ends).sample
        known = jumping.precompute_embeddings(starts, next_timesteps=ends)
        for k, (start, end) in enumerate(zip(starts, ends, strict=True)):
            alone = jumping(x[k : k + 1], start, next_timestep=end).sample
            torch.testing.assert_close(alone[0], together[k], atol=1e-5, rtol=1e-5)
            looked_up = jumping(x[k : k + 1], start, next_timestep=end, embeddings=known).sample
            torch.testing.assert_close(looked_up, alone, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(jumping(x, 500.25, next_timestep=0.0).sample, jumping(x, 500.25).sample)
        assert torch.equal(jumping(x, 500.25, next_timestep=500.25).sample, jumping(x, 500.25).sample)
    with pytest.raises(ValueError, match="without next_timestep_embedding"):
        plain(x, 500, next_timestep=0)
    with pytest.raises(ValueError, match="next_timestep has shape"):
        jumping(x, 500, next_timestep=torch.zeros(2))
