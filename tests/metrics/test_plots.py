"""Figures show the numbers of the arrays, and equal figures are written as equal files."""

import subprocess
import sys

import numpy as np
import pytest

from qa_lightning.errors import InputError
from qa_lightning.metrics.calibration import precision_recall, reliability, risk_coverage
from qa_lightning.metrics.plots import draw, precision_recall_curves, reliability_diagram, risk_coverage_curves, save


@pytest.fixture(scope="module")
def answers():
    rng = np.random.default_rng(0)
    confidence = rng.random(5000)
    return confidence, rng.random(5000) < confidence


def labels(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_bars_are_the_accuracy_of_bins_and_the_questions_in_them(answers):
    bins = reliability(*answers, 10)
    above, below = reliability_diagram(bins).axes
    assert [bar.get_height() for bar in above.patches] == bins.accuracy.tolist()
    assert [bar.get_height() for bar in below.patches] == bins.count.tolist()
    assert above.get_title() == f"expected calibration error {100 * bins.error:.1f}%"
    before, after, *_ = reliability_diagram(bins, reliability(*answers, 5), "T = 1.50").axes
    assert before.get_title().startswith("before: ")
    assert after.get_title().startswith("after (T = 1.50): ")
    assert len(after.patches) == 5


def test_bins_with_few_questions_are_drawn_small():
    """One question in the first bin, twenty in the second, ten in the last."""
    bins = reliability([0.1] + [0.4] * 20 + [0.9] * 10, [1] * 31, 4)
    above, _ = reliability_diagram(bins).axes
    assert [bar.get_width() for bar in above.patches] == pytest.approx([0.0125, 0.25, 0.125])
    assert [bar.get_x() + bar.get_width() / 2 for bar in above.patches] == pytest.approx([0.125, 0.375, 0.875])
    (means,) = above.collections
    sizes = means.get_sizes()
    assert (sizes / sizes.max()).tolist() == pytest.approx([0.05, 1.0, 0.5])
    assert means.get_offsets().tolist() == pytest.approx(np.array([[0.1, 1.0], [0.4, 1.0], [0.9, 1.0]]))


def test_bins_without_questions_leave_gaps():
    above, below = reliability_diagram(reliability([0.9, 0.95], [1, 0], 4)).axes
    assert [bar.get_x() for bar in above.patches] == [0.75]
    assert [bar.get_height() for bar in below.patches] == [0, 0, 0, 2]


def test_curves_run_from_the_first_to_the_last_point(answers):
    curve = precision_recall(*answers, 4000)
    figure = precision_recall_curves({"exact match": curve, "F1": curve})
    x, y = figure.axes[0].lines[0].get_data()
    assert (x[0], y[0], x[-1], y[-1]) == (curve.recall[0], curve.precision[0], curve.recall[-1], curve.precision[-1])
    assert len(x) == 4000  # of 5,000
    assert labels(figure)[0] == f"exact match: average precision {100 * curve.average_precision:.1f}%"
    assert len({(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}) == 2


def test_the_coverage_at_a_precision_is_marked(answers):
    curve = risk_coverage(*answers)
    reached = curve.coverage[curve.risk <= 0.25][-1]
    figure = risk_coverage_curves({"model": curve}, 0.75)
    assert labels(figure) == [f"model: area {curve.area:.3f}, {100 * reached:.0f}% answered at 75% precision"]
    last = np.flatnonzero(curve.risk <= 0.25)[-1]
    assert (reached, curve.risk[last]) in [(line.get_xdata()[0], line.get_ydata()[0]) for line in figure.axes[0].lines]
    assert labels(risk_coverage_curves({"model": curve}, None)) == [f"model: area {curve.area:.3f}"]
    never = risk_coverage([0.5, 0.6], [0, 0])
    assert labels(risk_coverage_curves({"model": never})) == ["model: area 1.000, 0% answered at 90% precision"]


def test_no_questions_and_one_question_can_be_drawn(tmp_path):
    for count in (0, 1):
        sure, right = [0.5] * count, [1] * count
        figures = {
            "reliability": reliability_diagram(reliability(sure, right), reliability(sure, right), "T = 2"),
            "precision_recall": precision_recall_curves({"F1": precision_recall(sure, right, count)}),
            "risk_coverage": risk_coverage_curves({"model": risk_coverage(sure, right)}),
        }
        assert len(save(draw(figures), tmp_path)) == 3


def test_files_are_png_and_the_same_each_time(tmp_path, answers):
    files = [
        save(draw({"risk": risk_coverage_curves({"model": risk_coverage(*answers)})}), tmp_path / name / "deep")[0]
        for name in ("one", "two")
    ]
    assert files[0].name == "risk.png"
    assert files[0].read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_folder_that_cannot_be_made_is_named(tmp_path, answers):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/plots: figures cannot be written .*; name another folder"):
        save({}, tmp_path / "file" / "plots")


def test_drawing_leaves_matplotlib_as_it_was():
    code = "import sys, qa_lightning.metrics.plots; print('matplotlib.pyplot' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
