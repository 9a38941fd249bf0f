from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date
from xml.etree import ElementTree as ET

import pytest
from markupsafe import Markup

from app.web import svg
from app.web.svg.draw import nice_ticks

DAYS = [svg.Day(date(2026, 11, 1), 30, 10), svg.Day(date(2026, 11, 2), 0, 20)]
POINTS = [svg.Estimate(80, 0.7, 0.65, 0.75), svg.Estimate(160, 0.72, 0.68, 0.76, marked=True)]
CATEGORIES = [
    svg.HeatCategory("a", "Writing & <b>", (0.0, 0.07), alarm=True),
    svg.HeatCategory("b", "Writing & <b>", (None, -0.03)),
    svg.HeatCategory("c", "Code", (0.0, 0.0)),
]
BINS = tuple(svg.CalibrationBin(share, share * 0.9, 10) for share in (0.1, 0.5, 0.9))
KTO, DPO = svg.CalibrationArm("KTO <all>", "kto", BINS), svg.CalibrationArm("DPO", "dpo", BINS)
CHARTS: dict[str, Callable[[], Markup]] = {
    "share_bar": lambda: svg.share_bar(66, 34),
    "share_bar empty": lambda: svg.share_bar(0, 0),
    "daily_bars": lambda: svg.daily_bars(DAYS),
    "daily_bars empty": lambda: svg.daily_bars([]),
    "histogram": lambda: svg.histogram([0, 10, 20], [1, 2], [3, 4], unit="tokens"),
    "memory_bar": lambda: svg.memory_bar([("weights", 16.4), ("rest <x>", 4.0)], 79.3),
    "evaluated": lambda: svg.evaluated(POINTS, "AUC", reference=0.65, margin=0.63, end=1038),
    "evaluated empty": lambda: svg.evaluated([], "No evaluation yet"),
    "forest": lambda: svg.forest(
        [svg.ForestRow("AUC", 0.01, 0.002, 0.02), svg.ForestRow("Safety", 0, -0.01, 0.01, -0.02)], "KTO against DPO"
    ),
    "forest compact": lambda: svg.forest(
        [svg.ForestRow("Returns & <b>", 0.6, 0.5, 0.7)], "Win rate", reference=0.5, share=True, compact=True, width=340
    ),
    "forest empty": lambda: svg.forest([], "No figure"),
    "calibration": lambda: svg.calibration([KTO, DPO], "Calibration"),
    "calibration empty": lambda: svg.calibration([], "No rows"),
    "interval_cell": lambda: svg.interval_cell(0.7, 0.6, 0.8, scale=(0.5, 1), baseline=0.65),
    "heat_map": lambda: svg.heat_map(CATEGORIES, [80, 160]),
    "heat_map empty": lambda: svg.heat_map([], []),
    "cell_strip": lambda: svg.cell_strip((0.0, None, 0.07), "Writing a"),
    "heat_scale": svg.heat_scale,
    "balance": lambda: svg.balance([0.2, 0.9, 0.5], only_desirable=1, only_undesirable=2),
    "balance empty": lambda: svg.balance([], only_desirable=0, only_undesirable=0),
    "progress": lambda: svg.progress(step=50, total=200, checkpoints=[40, 80]),
    "spark": lambda: svg.spark([1, 3, 2], "rising"),
    "spark flat": lambda: svg.spark([2], "one value"),
    "spark empty": lambda: svg.spark([], "no value"),
}


def _elements(chart: Markup, name: str, css: str = "") -> list[ET.Element]:
    return [e for e in ET.fromstring(chart).iter(name) if css in e.get("class", "").split() or not css]


@pytest.mark.parametrize("name", CHARTS)
def test_every_chart_is_well_formed_labelled_and_without_style(name: str) -> None:
    chart = CHARTS[name]()
    root = ET.fromstring(chart)
    assert root.get("role") == "img"
    assert len(root.get("aria-label", "")) > 2
    assert "style" not in chart
    assert not re.search(r"nan|inf\b", chart)
    for shape in root.iter():
        for side in ("width", "height", "r"):
            assert not shape.get(side, "0").startswith("-")


def test_share_bar_divides_the_width_by_counts() -> None:
    left, right = _elements(svg.share_bar(75, 25, width=402), "rect")
    assert (left.get("width"), right.get("width"), right.get("x")) == ("300", "100", "302")


def test_days_go_up_and_down_from_zero() -> None:
    chart = svg.daily_bars(DAYS)
    up = _elements(chart, "rect", "f-des")
    down = _elements(chart, "rect", "f-und")
    assert (len(up), len(down)) == (1, 2)
    zero = float(up[0].get("y", 0)) + float(up[0].get("height", 0))
    assert all(float(bar.get("y", 0)) > zero for bar in down)
    assert float(down[1].get("height", 0)) > float(down[0].get("height", 0))
    assert "1 Nov: 30 desirable, 10 undesirable" in chart


def test_histogram_refuses_bins_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="3 edges"):
        svg.histogram([0, 10, 20], [1], [3, 4], unit="tokens")


def test_memory_names_its_parts_and_the_sum() -> None:
    chart = svg.memory_bar([("weights", 16.4), ("activations", 21.4)], 79.3)
    assert 'aria-label="37.8 of 79.3 GiB; limit line at 92' in chart
    assert "weights: 16.4 GiB" in chart


def test_forest_marker_is_hollow_when_it_holds_the_reference() -> None:
    rows = [svg.ForestRow("excludes", 0.01, 0.002, 0.02), svg.ForestRow("holds", 0.0, -0.01, 0.01)]
    filled, hollow = _elements(svg.forest(rows, "x"), "circle")
    assert filled.get("class") == "f-kto"
    assert hollow.get("class") == "hollow s-kto"


def test_forest_writes_figures_margins_and_what_has_no_interval() -> None:
    rows = [
        svg.ForestRow("Primary", 3.7, 1.2, 6.2, strong=True, note="pass rate"),
        svg.ForestRow("Guard", -0.6, -1.7, 0.5, margin=-2.0),
        svg.ForestRow("DPO", 1.0, 0.5, 1.5, cls="dpo"),
        svg.ForestRow("Few", 1.0, None, None),
        svg.ForestRow("Same pairs", 0.4, -1.9, 2.7, text="could see \u2265 3.3"),
    ]
    chart = svg.forest(rows, "x", digits=1, heads=("DPO better", "KTO better"))
    words = [element.text for element in _elements(chart, "text")]
    for expected in (
        "pass rate",
        "+3.7",
        "+1.2 to +6.2",
        "\u22121.7 to +0.5",
        "no interval",
        "could see \u2265 3.3",
        "DPO better",
    ):
        assert expected in words
    (margin,) = _elements(chart, "path", "margin-l")
    (reference,) = _elements(chart, "path", "ref-l")
    assert float(margin.get("d", "")[1:].split()[0]) < float(reference.get("d", "")[1:].split()[0])
    (square,) = _elements(chart, "rect", "f-dpo")
    assert square.get("width") == "7.8"


def test_forest_of_shares_is_read_against_half() -> None:
    chart = svg.forest([svg.ForestRow("Returns", 0.61, 0.54, 0.68)], "x", reference=0.5, share=True, compact=True)
    words = [(element.text or "").replace("\xa0", " ") for element in _elements(chart, "text")]
    assert {"61 %", "\u00b17", "50 %"} <= set(words)


def test_a_label_gives_way_to_points() -> None:
    def label_of(value: float) -> float:
        points = [svg.Estimate(x, value, value - 0.01, value + 0.01) for x in (10, 20)]
        chart = svg.evaluated(points, "Change", reference=0.0, margin=0.05, height=220)
        (label,) = [element for element in _elements(chart, "text", "halo") if element.text == "reference"]
        return float(label.get("y", 0))

    assert label_of(0.002) > label_of(-0.002) + 10


def test_calibration_lies_on_the_diagonal_where_prediction_and_observation_agree() -> None:
    agreeing = svg.CalibrationArm("KTO", "kto", tuple(svg.CalibrationBin(s, s, 10) for s in (0.25, 0.75)))
    chart = svg.calibration([agreeing], "x", width=300, height=206)
    (diagonal,) = _elements(chart, "path", "ref-l")
    start, end = (tuple(map(float, point.split())) for point in diagonal.get("d", "")[1:].split("L"))
    for marker, share in zip(_elements(chart, "circle"), (0.25, 0.75), strict=True):
        assert float(marker.get("cx", 0)) == pytest.approx(start[0] + share * (end[0] - start[0]), abs=0.1)
        assert float(marker.get("cy", 0)) == pytest.approx(start[1] + share * (end[1] - start[1]), abs=0.1)
    assert len(_elements(chart, "rect", "f-line")) == 2


@pytest.mark.parametrize(
    ("change", "css"),
    [
        (None, "hm-none"),
        (0.0, "hm-0"),
        (0.0109, "hm-0"),
        (0.011, "hm-p1"),
        (0.03, "hm-p2"),
        (0.05, "hm-p3"),
        (0.064, "hm-p4"),
        (-0.0109, "hm-0"),
        (-0.012, "hm-n1"),
        (-0.03, "hm-n2"),
        (-0.05, "hm-n3"),
        (-0.1, "hm-n4"),
    ],
)
def test_heat_bins(change: float | None, css: str) -> None:
    assert svg.heat_bin(change) == css


def test_heat_map_draws_one_path_per_bin_with_runs_merged() -> None:
    chart = svg.heat_map(CATEGORIES, [80, 160])
    paths = {e.get("class", ""): e.get("d", "") for e in _elements(chart, "path", "crisp")}
    assert set(paths) == {"hm-0 crisp", "hm-none crisp", "hm-p4 crisp", "hm-n2 crisp"}
    same = [svg.HeatCategory(str(i), "d", (0.0,)) for i in range(50)]
    (one,) = _elements(svg.heat_map(same, [1]), "path", "crisp")
    assert one.get("d", "").count("M") == 1
    with pytest.raises(ValueError, match="1 changes for 2"):
        svg.heat_map(same, [1, 2])


def test_every_cell_of_the_heat_map_shows_its_own_bin() -> None:
    values = [-0.1, -0.05, -0.03, -0.012, 0.0, 0.012, 0.03, 0.05, 0.1, None, 0.1, 0.012, 0.1, -0.1, 0.0]
    rows = [values, values[::-1], sorted(values, key=lambda value: value or 0.0)]
    columns = [svg.HeatCategory(str(i), "abc"[i // 6], changes) for i, changes in enumerate(zip(*rows, strict=True))]
    layout = svg.heat_layout(columns, 3, width=340, left=40)
    painted: list[tuple[str, list[float]]] = [
        (element.get("class", "").split()[0], [float(part) for part in re.split(r"[Mhvz ]+", bar)[:4]])
        for element in _elements(svg.heat_map(columns, [1, 2, 3], width=340, left=40), "path", "crisp")
        for bar in element.get("d", "").split("M")[1:]
    ]
    for block in layout.blocks:
        for index, column in enumerate(block.columns):
            for row, change in enumerate(column.changes):
                x, y = block.x + layout.cell * (index + 0.5), layout.top + layout.row * (row + 0.4)
                over = [css for css, (left, top, w, h) in painted if left <= x <= left + w and top <= y <= top + h]
                assert over[-1] == svg.heat_bin(change), (column.name, row)


def test_a_search_veils_what_it_does_not_find() -> None:
    columns = [svg.HeatCategory(str(i), "d", (0.0,), dimmed=i != 2) for i in range(5)]
    (veil,) = _elements(svg.heat_map(columns, [1], width=240, left=40), "path", "hm-veil")
    assert veil.get("d", "").count("M") == 2
    assert not _elements(svg.heat_map(columns[2:3], [1]), "path", "hm-veil")


def test_a_large_heat_map_stays_small() -> None:
    many = [
        svg.HeatCategory(str(i), f"d{i // 66}", tuple(((i * 37 + r * 11) % 100 - 50) / 700 for r in range(13)))
        for i in range(661)
    ]
    assert len(svg.heat_map(many, list(range(13)))) < 250_000


def test_progress_counts_checkpoints() -> None:
    chart = svg.progress(step=706, total=1038, checkpoints=[640, 720])
    assert "Step 706 of 1,038; 1 of 2 checkpoints saved" in chart
    assert [c.get("class") for c in _elements(chart, "circle")] == ["hollow s-ink", "hollow s-idle"]


def test_both_draws_for_wide_and_phone() -> None:
    html = svg.both(svg.daily_bars, DAYS, wide=700, phone=330)
    assert 'class="only-wide"><svg class="k-chart" viewBox="0 0 700' in html
    assert 'class="only-phone"><svg class="k-chart" viewBox="0 0 330' in html


def test_unknown_legend_key_raises() -> None:
    assert "margin-l" in svg.legend_key("margin")
    with pytest.raises(KeyError):
        svg.legend_key("nothing")


def test_ticks_are_round() -> None:
    assert nice_ticks(0, 10, 4) == [0, 5, 10]
    assert nice_ticks(0.61, 0.78, 3) == [0.7]
    assert nice_ticks(-0.011, 0.024, 3) == [0.0, 0.02]
    assert nice_ticks(3, 3) == [3]


def test_a_share_bar_may_stand_for_a_part_of_the_largest() -> None:
    whole, part = (_elements(svg.share_bar(30, 30, of=of, width=400), "rect", "f-und")[0] for of in (60, 240))
    assert float(whole.get("x", 0)) + float(whole.get("width", 0)) == pytest.approx(400)
    assert float(part.get("x", 0)) + float(part.get("width", 0)) == pytest.approx(100)


def test_the_newest_day_always_has_its_date() -> None:
    days = [svg.Day(date(2026, 11, day), 1, 1) for day in range(1, 31)]
    labels = [element.text for element in _elements(svg.daily_bars(days, width=760), "text", "mid")]
    assert labels[-1] == "30 Nov"
    assert len(labels) == 5


def test_counts_have_no_broken_ticks() -> None:
    labels = [element.text for element in _elements(svg.daily_bars([svg.Day(date(2026, 11, 1), 1, 0)]), "text", "end")]
    assert labels == ["1", "1"]


def test_medians_are_written() -> None:
    chart = svg.histogram((0, 10, 20), (3, 1), (1, 3), unit="words", medians=(6.0, None))
    assert [element.text for element in _elements(chart, "text", "t-2")] == ["median 6"]


def test_names_of_narrow_domains_go_to_further_lines() -> None:
    names = [f"Quite a long domain {index}" for index in range(5)]
    chart = svg.heat_map([svg.HeatCategory("x", name, (0.0,)) for name in names], [10], width=300)
    written = {element.text: element.get("y") for element in _elements(chart, "text") if element.text in names}
    assert len({*written.values()}) > 1
