"""What the report makes of measurements: rows, reading curves, verdicts, the page."""

from dataclasses import asdict, replace

import pytest

from continuous_unet.comparison.formatting import figure, scaled, timing
from continuous_unet.comparison.report import Table, render
from continuous_unet.comparison.results import CurvePoint, Failed, SavedMemory, SolverStepsLosses, from_json
from continuous_unet.comparison.rows import QualityRow, SideRow, Spread, Timing, loss_at, read_csv, write_csv
from continuous_unet.comparison.verdicts import least_saved, make_verdicts, steps_sensitivity
from continuous_unet.evaluation import Latency

CURVE = [CurvePoint(images_seen=n, validation_loss=loss) for n, loss in ((100, 0.4), (400, 0.2), (1600, 0.1))]


def test_curves_are_read_on_logarithmic_axes():
    assert loss_at(CURVE, 400) == pytest.approx(0.2)
    assert loss_at(CURVE, 200) == pytest.approx((0.4 * 0.2) ** 0.5)
    assert loss_at(CURVE, 1600) == pytest.approx(0.1)
    assert loss_at(CURVE, 99) is None  # nothing was measured before the first point
    assert loss_at([], 100) is None


def test_pieces_of_json_become_what_they_were():
    latency = Latency(1.0, 0.9, 1.1, 5)
    kind = dict[str, Latency | Failed]
    assert from_json(kind, {"a": asdict(latency), "b": {"failed": "no"}}) == {"a": latency, "b": Failed("no")}
    assert from_json(list[CurvePoint], [asdict(point) for point in CURVE]) == CURVE
    # a later version may write more, and an earlier one wrote less
    assert from_json(CurvePoint, {"images_seen": 3, "colour": "red"}) == CurvePoint(images_seen=3)


FACTS = {"data": {"image_size": 8, "num_images": 5000, "channels": 1}, "machine": {}}
FACTS["machine"] = {"name": "a CPU", "device": "cpu", "threads": 1, "torch": "2"}
LOSS = Spread(0.050, 0.049, 0.051, (0.049, 0.050, 0.051))


def spread(*seeds):
    return Spread.of(seeds)


def row(side, fid=(10.0,) * 3, **changes):
    losses = {f"validation_loss_quarter_{quarter}": None for quarter in range(1, 5)}
    quality = QualityRow(
        1e-3, 100, 3, LOSS, LOSS, LOSS, **losses, fid=spread(*fid), kid=None, kid_std=0.1, num_samples=5,
        precision=spread(0.5), recall=spread(0.25), density=None, coverage=None,
    )  # fmt: skip
    quality = replace(quality, **{name: changes.pop(name) for name in list(changes) if name.startswith("validation")})
    eager = Timing(9.0, 1.0, 0.9, 1.1)
    plain = SideRow(side, side, 100, 100, 1000, 0, 1000, 1, 2, eager, None, 0.1, 1.0, 5.0, 1.0, quality)
    return replace(plain, **changes)


def losses(*seeds):
    return {f"validation_loss_equal_{what}": spread(*seeds) for what in ("images", "time")}


def verdicts(ours, *others, size=32, steps=None, memory=()):
    return {v.claim: v for v in make_verdicts([ours, *others], size, list(memory), steps or {})}


def test_shares_are_met_up_to_the_limit():
    claims = verdicts(
        row("ours", parameters=25, macs_per_forward=36, latency_eager=Timing(1.8, 0.2, 0.1, 0.3)), row("discrete")
    )
    assert claims["parameters, relative to the usual-size U-Net"].verdict == "met"
    assert claims["MACs per forward pass"].verdict == "missed"
    assert claims["MACs per forward pass"].measured == "36.0%"
    assert claims["latency per forward pass, eager"].verdict == "met"
    assert "latency per forward pass, compiled" not in claims
    # at 64 pixels the project asks for more
    assert verdicts(row("ours", macs_per_forward=32), row("discrete"))["MACs per forward pass"].verdict == "met"
    assert (
        verdicts(row("ours", macs_per_forward=32), row("discrete"), size=64)["MACs per forward pass"].verdict
        == "missed"
    )


@pytest.mark.parametrize(
    ("ours", "no_worse", "clearly_better"),
    [
        ((0.0480, 0.0490, 0.0500), "met", "met"),  # ranges overlap, but better in every seed
        ((0.0470, 0.0505, 0.0510), "met", "level"),  # better on average, not in every seed
        ((0.0480, 0.0510, 0.0525), "level", "level"),  # worse on average, not in every seed
        ((0.0500, 0.0510, 0.0520), "missed", "missed"),
        ((0.0480,), "met", "met"),  # a side with one seed is compared in that one
    ],
)
def test_losses_are_judged_seed_by_seed(ours, no_worse, clearly_better):
    claims = verdicts(row("ours", **losses(*ours)), row("discrete"), row("discrete-macs"))
    assert claims["validation loss, equal images"].verdict == no_worse
    assert claims["validation loss, equal wall-clock"].verdict == clearly_better
    assert claims["validation loss, compared with the U-Net cut to our MACs"].verdict == clearly_better


def test_distances_are_judged_seed_by_seed():
    ours, discrete = row("ours", fid=(7, 9, 11)), row("discrete", fid=(9, 10, 11))
    claims = verdicts(ours, discrete, row("control", fid=(8, 8, 8)))
    assert claims["FID at the end of training"].measured == "9 against 10 (-10.0%, in 3 of 3 seeds)"
    assert claims["FID, compared with the weight-tied control"].verdict == "level"


def test_a_loss_that_was_not_measured_gives_no_verdict():
    assert "validation loss, equal images" not in verdicts(row("ours"), row("discrete", **losses(None)))
    assert "validation loss, equal images" not in verdicts(row("ours"), row("discrete", quality=None))


def test_sensitivity_to_solver_steps_and_memory_are_compared_with_the_control():
    def steps(*values):
        return [
            SolverStepsLosses(solver_steps=n, trained_with=2, validation_loss=v)
            for n, v in zip((1, 2, 4), values, strict=True)
        ]

    assert steps_sensitivity(steps(0.06, 0.05, 0.055)) == pytest.approx(1.2)
    assert steps_sensitivity([]) is None
    memory = [
        SavedMemory(*entry)
        for entry in (
            ("ours", "backprop", 8, 800),
            ("ours", "reversible", 8, 100),
            ("control", "checkpoint", 8, 200),
            ("discrete", "checkpoint", None, 500),
            ("ours", "reversible", 2, 90),
        )
    ]
    assert least_saved(memory, 8) == {"ours": 100, "control": 200, "discrete": 500}
    assert least_saved(memory) == {"ours": 90, "discrete": 500}
    flat, steep = steps(0.05, 0.05, 0.05), steps(0.06, 0.05, 0.055)
    claims = verdicts(row("ours"), row("control"), steps={"ours": flat, "control": steep}, memory=memory)
    (found,) = (v for claim, v in claims.items() if "1 to 8 solver steps" in claim)
    assert (found.measured, found.verdict) == ("1.00 x (1.20 x)", "met")
    claims = verdicts(row("ours"), row("control"), steps={"ours": steep, "control": flat}, memory=memory)
    (found,) = (v for claim, v in claims.items() if "1 to 8 solver steps" in claim)
    assert found.verdict == "missed"
    (found,) = (v for claim, v in claims.items() if "exact gradient through" in claim)
    assert (found.measured, found.verdict) == ("50.0%", "met")


def test_rows_are_read_back_from_their_file(tmp_path):
    rows = [row("ours", **losses(0.04, 0.06)), row("discrete", fid=(None,))]
    write_csv(tmp_path / "results.csv", [one.cells() for one in rows])
    assert [SideRow.from_cells(cells) for cells in read_csv(tmp_path / "results.csv")] == rows
    cost = row("ours", quality=None)
    write_csv(tmp_path / "costs.csv", [cost.cells()])
    (cells,) = read_csv(tmp_path / "costs.csv")
    assert "validation_loss" not in cells
    assert cells["latency_eager_ratio_p75"] == "1.1"
    assert SideRow.from_cells(cells) == cost


def test_figures_as_text():
    assert scaled(2.5e6, "M", 1, 5e6) == "2.5 M (50%)"
    assert scaled(3 * 2**20, "MiB", 2) == "3.00 MiB"
    assert timing(Timing(9.04, 0.5, 0.4, 0.6)) == "50% (40% to 60%)"
    assert timing(Timing(9.04, 0.5, 0.4, 0.6), milliseconds=True) == "9.0 ms (50%; 40% to 60%)"
    assert figure(spread(1.0, 2.0), 1) == "1.5 (1.0 to 2.0)"
    assert figure(spread(1.0), 1) == "1.0"
    assert figure(None, 1) == timing(None) == "–"


def test_without_ours_there_is_nothing_to_claim():
    assert "was not compared" in next(iter(verdicts(row("mine"))))


def test_the_page_says_the_same_in_both_languages(tmp_path):
    (tmp_path / "dot.png").write_bytes(b"\x89PNG picture")
    context = {
        **dict.fromkeys(("quality", "tradeoff", "sampling", "solver_steps", "sweep", "comparison", "config"), None),
        **dict.fromkeys(("budget", "reference", "equal_images", "equal_seconds", "sampler"), ""),
        "comparison": FACTS,
        "folder": "here",
        "data_name": "A < B",
        "plots": {"dot.png": "a dot"},
        "samples": {},
        "verdicts": Table(["side", "verdict"], [["x|y", "met"], ["<script>", "missed"]]),
        "costs": Table([], []),
    }
    markdown, html = (render(name, tmp_path, context) for name in ("report.md", "report.html"))
    assert markdown.startswith("# Continuous and discrete U-Nets on A < B, 8 pixels\n\n5,000 training images")
    assert "| x\\|y | met |" in markdown
    assert "![a dot](dot.png)" in markdown
    assert "```\ncunet compare --config here/compare.yaml --output another-folder\n```" in markdown
    assert "A &lt; B" in html
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert '<td class="met">met</td>' in html
    assert "data:image/png;base64,iVBORyBwaWN0dXJl" in html
    assert "dot.png" not in html  # the file needs no other
    assert html.startswith("<!doctype html>")
    for text in (markdown, html):
        assert "Costs only: nothing was trained." in text
        assert "Sampling steps" not in text
