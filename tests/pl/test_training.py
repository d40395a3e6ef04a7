"""What the training curves show."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from nh2st_graph import DataError, pl


@pytest.fixture
def log() -> pd.DataFrame:
    """Five epochs, training and validation values on rows of their own, as Lightning writes them."""
    rows = []
    for epoch in range(5):
        chance = {"contrast_spot_chance": np.log(180), "contrast_neighbourhood_chance": np.log(180)}
        losses = {"train_loss": 2 - 0.1 * epoch, "contrast_spot": 4.5, "contrast_neighbourhood": 4.0}
        rows.append({"epoch": epoch, "step": 3 * epoch, "val_loss": 1.9, "val_pcc": 0.04 * epoch})
        rows.append({"epoch": epoch, "step": 3 * epoch, **losses, **chance})
    return pd.DataFrame(rows)


def lines(ax) -> dict[str, list[float]]:
    return {line.get_label(): list(line.get_ydata()) for line in ax.lines}


def test_panels_hold_the_logged_values_by_epoch(log: pd.DataFrame) -> None:
    loss, error, score, contrast = pl.training_curves(log).axes
    np.testing.assert_allclose(lines(loss)["training"], [2, 1.9, 1.8, 1.7, 1.6])
    np.testing.assert_allclose(lines(error)["held-out"], 1.9)
    np.testing.assert_allclose(lines(score)["held-out"], [0, 0.04, 0.08, 0.12, 0.16])
    np.testing.assert_allclose(lines(contrast)["neighbourhood"], 4.0)
    assert [ax.get_xlabel() for ax in (loss, error, score, contrast)] == ["epoch"] * 4
    names = [ax.get_ylabel() for ax in (error, score, contrast)]
    assert names == ["squared error, mean over genes", "Pearson r, mean over genes", "InfoNCE (nats)"]
    np.testing.assert_array_equal(loss.lines[0].get_xdata(), range(5))


def test_chance_is_dashed_beside_each_contrastive_loss(log: pd.DataFrame) -> None:
    contrast = pl.training_curves(log).axes[3]
    for name in ("spot, chance", "neighbourhood, chance"):
        (line,) = [line for line in contrast.lines if line.get_label() == name]
        np.testing.assert_allclose(line.get_ydata(), np.log(180))
        assert line.is_dashed()
    assert contrast.get_ylim()[0] == 0
    colours = {line.get_label(): line.get_color() for line in contrast.lines}
    assert colours["spot"] == colours["spot, chance"] != colours["neighbourhood"]


def test_selected_epoch_is_marked_in_every_panel(log: pd.DataFrame) -> None:
    for ax in pl.training_curves(log, selected=3).axes:
        (mark,) = [line for line in ax.lines if line.get_label() == "selected epoch (3)"]
        assert list(mark.get_xdata()) == [3, 3]


def test_absent_columns_leave_their_panel_out(log: pd.DataFrame) -> None:
    (loss,) = pl.training_curves(log[["epoch", "train_loss"]]).axes
    assert list(lines(loss)) == ["training"]
    (contrast,) = pl.training_curves(log[["epoch", "contrast_spot"]]).axes
    assert list(lines(contrast)) == ["spot"]


def test_one_epoch_is_a_visible_point(log: pd.DataFrame) -> None:
    for ax in pl.training_curves(log[log["epoch"] == 0]).axes[:2]:
        assert all(line.get_marker() == "o" for line in ax.lines)
        assert [tick for tick in ax.get_xticks() if ax.get_xlim()[0] <= tick <= ax.get_xlim()[1]] == [0]


def test_logs_without_anything_are_refused(log: pd.DataFrame) -> None:
    with pytest.raises(DataError, match="no column 'epoch'"):
        pl.training_curves(log.drop(columns="epoch"))
    with pytest.raises(DataError, match="no values"):
        pl.training_curves(log[["epoch", "step"]])


def test_curves_are_the_folds_mean_as_far_as_all_of_them_went() -> None:
    log = pd.DataFrame(
        {
            "stage": ["fold1:A"] * 3 + ["fold2:B"] * 2 + ["all"] * 4,
            "epoch": [1, 2, 3, 1, 2, 1, 2, 3, 4],
            "val_loss": [4.0, 2.0, 1.0, 6.0, 3.0] + [np.nan] * 4,
            "train_loss": [1.0, 1.0, 1.0, 3.0, 5.0, 9.0, 9.0, 9.0, 9.0],
        }
    )
    curves = pl.fold_curves(log)
    assert list(curves["epoch"]) == [1, 2]
    assert list(curves["val_loss"]) == [5.0, 2.5]
    assert list(curves["train_loss"]) == [2.0, 3.0]
    assert lines(pl.training_curves(log).axes[1])["held-out"] == [5.0, 2.5]


def test_a_legend_hides_no_line() -> None:
    log = pd.DataFrame({"epoch": [1, 2, 3], "train_loss": [3.0, 2.0, 1.0], "val_loss": [1.0, 2.0, 3.0], "val_pcc": 0.1})
    figure = pl.training_curves(log, selected=2)
    figure.canvas.draw()
    for ax in figure.axes:
        assert not ax.get_legend().get_window_extent().overlaps(ax.get_window_extent())


def test_no_loss_is_clipped_and_noise_does_not_fill_the_panel() -> None:
    """Also where the second line begins higher, and all r are near 0."""
    r = 0.001 * np.array([1.0, -1.0, 2.0])
    spot, around = [4.0, 3.0, 2.0], [6.5, 3.0, 2.0]
    columns = {"val_pcc": r, "contrast_spot": spot, "contrast_neighbourhood": around}
    chance = {f"{name}_chance": 5.0 for name in columns if name != "val_pcc"}
    score, contrast = pl.training_curves(pd.DataFrame({"epoch": [1, 2, 3], **columns, **chance})).axes
    assert contrast.get_ylim()[0] == 0
    assert contrast.get_ylim()[1] > 6.5
    low, high = score.get_ylim()
    assert high - low == pytest.approx(0.1)
    assert low < r.min() < r.max() < high
