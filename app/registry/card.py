"""The model card of a version in Markdown, with front matter that model hubs read. Made from card_data.py alone."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import yaml

from app.evaluations.words import diversity_sentence, ranking_sentence, spoken
from app.web.formats import DASH, num, pct, signed

STATES = {"pass": "pass", "fail": "fail", "missing": "not enough evidence"}
_METRICS = {
    "similarity": ("Similarity within a prompt (ROUGE-L)", 3),
    "similarity_normalised": ("The same among desirable samples, normalised", 3),
    "distinct_k_gated": ("Distinct answers among desirable samples", 2),
    "distinct_k": ("Distinct answers", 2),
    "ead": ("Distinct n-grams (EAD)", 3),
    "mean_words": ("Words", 1),
    "loop_rate": ("Loops, share", 3),
    "refusal_share": ("Refusals, share", 3),
}
_KINDS = {"eval": "tasks", "redteam": "harmful requests", "benign": "benign requests", "diversity": "diversity"}


def front_matter(data: dict[str, Any]) -> str:
    """YAML as model hubs read it, with a model-index of the held-out figures."""
    fields: dict[str, Any] = {
        "base_model": data["details"]["base_model"],
        "library_name": "peft",
        "tags": [data["details"]["objective"], "lora", "alignment"],
    }
    heldout = data["evaluation"]["heldout"] if data["evaluation"] else None
    metrics = [
        {"type": key, "name": name, "value": round(heldout[key]["value"], 4)}
        for key, name in (("auc_within_prompt", "AUC within the prompt"), ("auc", "AUC, pooled"), ("accuracy", "Accuracy"))
        if heldout and heldout[key]["value"] is not None
    ]  # fmt: skip
    if metrics:
        dataset = {"name": "held-out feedback", "type": "private", "split": "dev", "revision": data["training_data"]["snapshot"]}  # fmt: skip
        task = {"type": "text-generation", "name": "Ranking of desirable completions"}
        fields["model-index"] = [
            {"name": data["name"], "results": [{"task": task, "dataset": dataset, "metrics": metrics}]}
        ]
    return f"---\n{yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=1000)}---\n"


def card_json(data: dict[str, Any]) -> str:
    return json.dumps(data, ensure_ascii=False, indent=2, sort_keys=True) + "\n"


def model_card(data: dict[str, Any]) -> str:
    sections = [_details, _training_data, _evaluation, _decision, _suites, _gate, _caveats, _nist]
    return "\n\n".join(text for section in sections if (text := section(data))) + "\n"


def under_heading(card: str) -> str:
    """The card on a page that has the title already: without its own, and one level up."""
    return re.sub(r"(?m)^#(#+ )", r"\1", card.partition("\n")[2])


def code(value: object) -> str:
    """A value as inline code; a backtick or line break in a name cannot end it."""
    return f"`{' '.join(str(value).replace('`', chr(39)).split())}`"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(' '.join(cell.replace('|', '/').split()) for cell in line)} |" for line in lines)


def _details(data: dict[str, Any]) -> str:
    run = data["details"]
    lora = run["lora"]
    start = "the base model, which is the reference"
    if run["init_adapter"]:
        which = "it is the reference too" if run["reference"] == "adapter" else "the base model is the reference"
        start = f"{run['init_adapter']}; {which}"
    rows = [
        ["Project", code(data["project"])],
        ["Base model", code(run["base_model"])],
        ["Method", f"{run['method']}, beta {run['beta'] or 'default'}"],
        ["Started from", start],
        ["Run", f"{code(run['run'])}, step {num(run['step'])} of {num(run['total_steps'])}"],
        ["Adapter", f"LoRA, rank {lora.get('r', 'default')}, alpha {lora.get('alpha', 'default')}"],
        ["Learning rate", str(run["learning_rate"] or "default")],
        ["Seed", str(run["seed"])],
        ["Checkpoint manifest", f"sha256 {code(run['manifest_sha256'])}"],
        ["Made", data["made_at"][:10]],
    ]
    note = f"\n\n{data['note']}" if data["note"] else ""
    title = f"# {code(data['project'])} v{data['version']}{note}"
    return f"{title}\n\n## Details\n\n{_table(['What', 'Value'], rows)}"


def _training_data(data: dict[str, Any]) -> str:
    train = data["training_data"]
    rows = [
        [split, num(up), num(down), pct(up / max(up + down, 1))]
        for split, part in train["counts"].items()
        for up, down in [(part["desirable"], part["undesirable"])]
    ]
    gone = train["num_erased"]
    erased = f" Erased since the run learned from them: {num(gone)} of its rows." if gone else ""
    return (
        f"## Training data\n\nSnapshot {code(train['snapshot'])}. Label: {train['rule']}. Split by conversation root: "
        f"no conversation is on two sides.{erased}\n\n{_table(['Split', 'Desirable', 'Undesirable', 'Share desirable'], rows)}"
    )


def _evaluation(data: dict[str, Any]) -> str:
    evaluation = data["evaluation"]
    if evaluation is None:
        return "## Evaluation\n\nThis checkpoint was not evaluated."
    held = evaluation["heldout"]
    rows = [
        ["AUC within the prompt", spoken(held["auc_within_prompt"]), num(held["auc_within_prompt"]["n"])],
        ["AUC pooled", spoken(held["auc"]), num(held["auc"]["n"])],
        ["AUC of length alone", spoken(held["auc_length"]), num(held["auc_length"]["n"])],
        ["Accuracy", spoken(held["accuracy"]), num(held["accuracy"]["n"])],
        ["KL, nats", spoken(held["kl"]), num(held["kl"]["n"])],
    ]
    text = (
        f"## Evaluation\n\n{ranking_sentence(held)}\n\nImplied rewards of the dev split, 95 % intervals clustered by prompt.\n\n"
        f"{_table(['Figure', 'Value', 'n'], rows)}\n\n### Diversity\n\n{diversity_sentence(evaluation['diversity'])}"
    )
    if evaluation["diversity"] is not None:
        overall = evaluation["diversity"]["overall"]
        changes = [
            [name, num(figure["reference"], digits), num(figure["policy"], digits), signed(figure["change"], digits)]
            for key, (name, digits) in _METRICS.items()
            if (figure := overall.get(key)) is not None
        ]
        text += f"\n\n{_table(['Metric', 'Reference', 'Policy', 'Change'], changes)}"
    alarms = [
        f"- {alarm['level']}: {alarm['text']}" + (f" {alarm['resolution'].capitalize()}: {alarm['reason']}" if alarm["resolution"] else "")
        for alarm in evaluation["alarms"]
        if alarm["level"] != "watch"
    ]  # fmt: skip
    return text + ("\n\n### Alarms\n\n" + "\n".join(alarms) if alarms else "")


def _decision(data: dict[str, Any]) -> str:
    found = data["kto_against_dpo"]
    return f"## KTO against DPO\n\n{found['headline']} {found['detail']}" if found else ""


def _suites(data: dict[str, Any]) -> str:
    rows = []
    for suite in data["suites"]:
        summary = suite["summary"]
        figure = summary.get({"redteam": "harmful_rate", "benign": "refusal_rate"}.get(suite["kind"], "score"))
        change = summary.get("difference")
        rows.append(
            [
                code(suite["name"]),
                _KINDS[suite["kind"]],
                num(suite["num_samples"]),
                num(suite["num_without_verdict"]),
                spoken(figure) if figure else DASH,
                spoken(change) if change else DASH,
            ]
        )
    if not rows:
        return ""
    words = "Share of passed samples for tasks, of harmful answers for harmful requests, of refusals for benign ones."
    head = ["Suite", "Of", "Samples", "Without verdict", "Figure", "Against the reference"]
    return f"## Suites\n\n{words}\n\n{_table(head, rows)}"


def _gate(data: dict[str, Any]) -> str:
    gate = data["gate"]
    rows = [
        [item["name"], STATES[item["state"]], item["figure"] or DASH, item["evidence"], item["rule"]]
        for item in gate["gates"]
    ]
    text = f"## Gate\n\n{gate['summary'].capitalize()}.\n\n{_table(['Gate', 'Outcome', 'Figure', 'Evidence', 'Rule'], rows)}"
    given = [f"- {entry['at'][:10]}: {entry['reason']}" for entry in gate["promotions"] if entry["reason"]]
    return text + ("\n\nPromoted with these reasons:\n\n" + "\n".join(given) if given else "")


def _caveats(data: dict[str, Any]) -> str:
    return "## Caveats\n\n" + "\n".join(f"- {text}" for text in data["caveats"])


def _nist(data: dict[str, Any]) -> str:
    rows = [
        [row["function"], row["subject"], row["record"], "yes" if row["present"] else "no"]
        for row in data["nist_ai_rmf"]
    ]
    return (
        "## NIST AI RMF\n\nWhich record speaks to which function of the framework (version 1.0). A map for readers, not a "
        f"claim of compliance.\n\n{_table(['Function', 'Subject', 'Record', 'There'], rows)}"
    )
