"""Sides: the built-in files, files of one's own, and cuts to another side's cost."""

import pytest
import yaml

from continuous_unet.base.errors import InputError
from continuous_unet.comparison import Side, load_sides
from continuous_unet.comparison.sides import cost, cut_widths, resolve_cuts

TINY_OURS = Side("ours", "ours", "tiny", {"block_out_channels": [16, 16]})
SMALL_DISCRETE = {"block_out_channels": [32, 64], "layers_per_block": 1}


@pytest.mark.parametrize("scale", ["small", "base"])
def test_the_protocol_s_sides_are_all_built_in(scale):
    sides = {side.name: side for side in load_sides([], scale)}
    assert list(sides) == [
        "ours",
        "control",
        "paper",
        "paper-first-order",
        "discrete",
        "discrete-parameters",
        "discrete-macs",
    ]
    ours, control = sides["ours"], sides["control"]
    assert control.preset == ours.preset
    # the control differs from ours in its update, and in nothing that costs more than the update
    assert control.model_options == {**ours.model_options, "block_type": "residual", "gradient": "backprop"}
    assert sides["paper-first-order"].model_options["block_type"] == "first_order"
    assert {s.preset for s in sides.values()} >= {"paper"}
    assert all(sides[name].preset.startswith("ddpm") for name in sides if name.startswith("discrete"))


@pytest.mark.parametrize("kind", ["parameters", "macs"])
def test_a_cut_is_the_largest_that_does_not_cost_more(kind):
    discrete = Side("discrete-cut", "cut", "ddpm_small", SMALL_DISCRETE, {"to": "ours", "cost": kind, "share": 1.0})
    ours, cut = resolve_cuts([TINY_OURS, discrete], 8, 1)
    limit = cost(TINY_OURS, kind, 8, 1)
    assert ours == TINY_OURS
    assert cost(cut, kind, 8, 1) <= limit
    larger = max(cut.model_options["block_out_channels"]) + 8
    widths = [max(8, round(w * larger / 64 / 8) * 8) for w in (32, 64)]
    wider = Side("wider", "", "ddpm_small", {**SMALL_DISCRETE, "block_out_channels": widths})
    assert cost(wider, kind, 8, 1) > limit


def test_every_cut_is_found():
    """Each scaled form is what its own cost cuts to, and what anything up to the next form's cost cuts to."""

    def form(largest):
        widths = [max(8, round(width * largest / 64 / 8) * 8) for width in (32, 64)]
        return Side("d", "", "ddpm_small", {**SMALL_DISCRETE, "block_out_channels": widths})

    forms = [form(largest) for largest in range(8, 72, 8)]
    costs = [cost(side, "parameters", 8, 1) for side in forms]
    assert costs == sorted(set(costs))
    whole = Side("d", "", "ddpm_small", SMALL_DISCRETE)
    for side, limit, following in zip(forms, costs, [*costs[1:], 2 * costs[-1]], strict=True):
        assert cut_widths(whole, "parameters", limit, 8, 1) == side
        assert cut_widths(whole, "parameters", following - 1, 8, 1) == side


def test_cuts_follow_each_other_in_any_order_and_take_a_share():
    half = Side("half", "", "ddpm_small", SMALL_DISCRETE, {"to": "whole", "cost": "parameters", "share": 0.5})
    whole = Side("whole", "", "ddpm_small", SMALL_DISCRETE, {"to": "ours", "cost": "parameters", "share": 4.0})
    half_cut, whole_cut, _ = resolve_cuts([half, whole, TINY_OURS], 8, 1)
    assert cost(half_cut, "parameters", 8, 1) <= 0.5 * cost(whole_cut, "parameters", 8, 1)


def test_what_cannot_be_cut_says_so():
    with pytest.raises(InputError, match="cannot be cut to 10 parameters"):
        cut_widths(Side("d", "", "ddpm_small", SMALL_DISCRETE), "parameters", 10, 8, 1)


def write(path, **content):
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return str(path)


def test_a_file_of_one_s_own_is_a_side(tmp_path):
    path = write(tmp_path / "mine.yaml", preset="tiny", model_options={"num_solver_steps": 3})
    (side,) = load_sides([path], "small")
    assert (side.name, side.label, side.model_options) == ("mine", "mine", {"num_solver_steps": 3})
    assert side.build(16, 1).config.num_solver_steps == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"preset": "magic"}, "--preset 'magic' must be one of"),
        ({}, "either a preset"),
        ({"preset": "tiny", "saved": "runs/digits"}, "either a preset"),
        ({"saved": "runs/digits", "cut": {"to": "ours", "cost": "macs"}}, "either a preset"),
        ({"preset": "tiny", "colour": "red"}, "unknown option 'colour'"),
        ({"preset": "tiny", "model_options": [1]}, "--model-option"),
        ({"preset": "ddpm", "cut": {"to": "ours"}}, "cut must look like"),
        ({"preset": "ddpm", "cut": {"to": "ours", "cost": "beauty"}}, "cut must look like"),
        ({"preset": "ddpm", "cut": {"to": "nobody", "cost": "macs"}}, "cut to the cost of 'nobody'"),
        ({"preset": "ddpm", "cut": {"to": "mine", "cost": "macs"}}, "in a circle"),
    ],
    ids=str,
)
def test_bad_side_files_are_named(content, message, tmp_path):
    path = write(tmp_path / "mine.yaml", **content)
    with pytest.raises(InputError, match=message):
        resolve_cuts(load_sides([path], "small"), 16, 1)


def test_unknown_and_doubled_sides_are_refused(tmp_path):
    with pytest.raises(InputError, match="'nobody' is neither built in"):
        load_sides(["nobody"], "small")
    with pytest.raises(InputError, match="same name"):
        load_sides(["ours", write(tmp_path / "ours.yaml", preset="tiny")], "small")


def test_options_that_do_not_fit_name_the_side():
    with pytest.raises(InputError, match=r"the side wrong cannot be made.*method"):
        Side("wrong", "", "tiny", {"method": "magic"}).build(16, 1)
    with pytest.raises(InputError, match=r"the side wrong cannot be made.*sieve"):
        Side("wrong", "", "ddpm_small", {"sieve": 1}).build(16, 1)
