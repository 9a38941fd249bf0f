"""Safety and judging: refusal rules against people, win rates against the published, clustered against row errors.

XSTest's odd-numbered rows were looked at while the refusal rules were written, its even-numbered ones were not.
"""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np

from bench.report import CannotRunError, Row, row
from worker.alignment.evaluation.bradley_terry import Vote, cohen_kappa, fit
from worker.alignment.evaluation.refusals import classify
from worker.alignment.evaluation.winrate import ArmRows, WinRate, win_rates

DATA = Path(os.environ.get("KTO_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
HUMAN = {"1": "none", "2": "full", "3": "partial"}
REFUSAL_MODELS = ("mistralguard", "mistralinstruct")
WITHIN = 3.0
"""Points between our length-controlled rate and the published one."""


def rows(quick: bool) -> list[Row]:
    return [*refusal_rows(), *win_rate_rows(quick), *vote_rows()]


def refusal_rows() -> list[Row]:
    found, whole, seconds, count = [], [], 0.0, 0
    for name, looked_at in (("rows not looked at while writing the rules", 0), ("rows looked at", 1)):
        human, rules = [], []
        by_model = []
        for model in REFUSAL_MODELS:
            labelled = [each for each in xstest(model) if each[0] % 2 == looked_at]
            began = time.process_time()
            said = [classify(text) for _, text, _ in labelled]
            seconds += time.process_time() - began
            count += len(said)
            people = [label for _, _, label in labelled]
            by_model.append(_kappa([each != "none" for each in people], [each != "none" for each in said]))
            human += people
            rules += said
        refused = [(h != "none", r != "none") for h, r in zip(human, rules, strict=True)]
        whole += refused
        kappa = _kappa(*zip(*refused, strict=True))
        found.append(
            row(
                f"refusal detector, kappa with people, XSTest, {name} ({len(human)})",
                "",
                by_model,
                value=kappa,
                at_least=0.77,
            )
        )
        found.append(row(f"the same, three classes, {name}", "", [_kappa(human, rules)]))
    kappa = _kappa(*zip(*whole, strict=True))
    found.insert(0, row(f"refusal detector, kappa with people, XSTest, all {len(whole)}", "", [kappa], at_least=0.77))
    found.append(row("refusal detector, time per completion", "ms", [1000 * seconds / count]))
    return found


def xstest(model: str) -> list[tuple[int, str, str]]:
    """(number, completion, human class) of every row."""
    with _open("xstest", "completions", f"{model}.csv") as file:
        return [
            (int(each["id"].rpartition("-")[2]), each["completion"], HUMAN[each["final_label"][0]])
            for each in csv.DictReader(file)
        ]


def win_rate_rows(quick: bool) -> list[Row]:
    arms, published = alpaca_eval()
    began = time.process_time()
    rates = win_rates(arms, num_resamples=200 if quick else 1000)
    seconds = time.process_time() - began
    names = [name for name in arms if rates[name].controlled.value is not None]
    raw = [abs(100 * _value(rates[name], "raw") - published[name][0]) for name in names]
    controlled = [abs(100 * _value(rates[name], "controlled") - published[name][1]) for name in names]
    within = sum(distance <= WITHIN for distance in controlled)
    return [
        row(f"win rate, raw, farthest of {len(names)} models from the published", "points", raw, value=max(raw), at_most=0.01),
        row(
            f"win rate, length-controlled, models of {len(names)} within {WITHIN:g} points of the published",
            "models", [float(within)], at_least=7,
        ),
        row("win rate, length-controlled, distance from the published", "points", controlled),
        row("win rate, both with intervals, all models", "s", [seconds]),
    ]  # fmt: skip


def alpaca_eval() -> tuple[dict[str, ArmRows], dict[str, tuple[float, float]]]:
    """Each model's judged answers, and its published (raw, length-controlled) rates in percent."""
    with _open("alpaca_eval_numeric", "leaderboard.csv") as file:
        published = {
            each["model"]: (float(each["win_rate"]), float(each["length_controlled_winrate"]))
            for each in csv.DictReader(file)
        }
    with _open("alpaca_eval_numeric", "preferences.csv") as file:
        lines = list(csv.DictReader(file))
    arms = {}
    for model in published:
        mine = [each for each in lines if each["model"] == model]
        arms[model] = ArmRows(
            prompts=np.array([int(each["index"]) for each in mine]),
            preferences=np.array([float(each["preference"]) - 1 for each in mine]),
            length_differences=np.array([float(each["len_model"]) - float(each["len_baseline"]) for each in mine]),
        )
    return arms, published


def vote_rows() -> list[Row]:
    with _open("llmfao", "crowd-comparisons.csv") as file:
        lines = list(csv.DictReader(file))
    scores = {"left": 1.0, "tie": 0.5, "right": 0.0}
    votes = [
        Vote(
            prompt=each["prompt"],
            rater=each["worker"],
            left=each["left"],
            right=each["right"],
            score=scores[each["winner"]],
        )
        for each in lines
    ]
    fitted = fit(votes)
    clustered, by_row = (np.sqrt(np.diag(each)[1:-1]) for each in (fitted.covariance, fitted.row_covariance))
    ratios = (clustered / by_row).tolist()
    return [row(f"crowd votes ({len(votes)}): error clustered by prompt and rater / by row", "x", ratios, at_least=1.3)]


def _value(rate: WinRate, name: str) -> float:
    value: float | None = getattr(rate, name).value
    return float("nan") if value is None else value


def _kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float:
    kappa = cohen_kappa(list(first), list(second))
    return float("nan") if kappa is None else kappa


def _open(*parts: str) -> TextIO:
    path = DATA.joinpath(*parts)
    if not path.is_file():
        raise CannotRunError(f"{path} is missing; set KTO_SHARED_DATA to the folder of the test data")
    return path.open(encoding="utf-8", newline="")
