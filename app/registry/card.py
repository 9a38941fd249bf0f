"""The model card of a version, in Markdown from data: nothing in it is written by hand or invented."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from app.evaluations.words import diversity_sentence, ranking_sentence, spoken
from app.models import Evaluation, ModelVersion, Project
from app.registry.gates import Gate, summary_of
from app.registry.service import base_model_label
from app.web.formats import DASH, day, num, objective, pct, signed

_STATES = {"pass": "pass", "fail": "fail", "missing": "not enough evidence"}
_METRICS = {
    "similarity": ("Similarity within a prompt (ROUGE-L)", 3),
    "distinct_k": ("Distinct answers", 2),
    "ead": ("Distinct n-grams (EAD)", 3),
    "mean_words": ("Words", 1),
}


def front_matter(version: ModelVersion) -> str:
    """YAML that model hubs read; JSON strings are valid YAML scalars, so no name can break out."""
    return "\n".join(
        [
            "---",
            f"base_model: {json.dumps(base_model_label(version.run))}",
            "library_name: peft",
            f"tags: {json.dumps([version.run.objective, 'lora', 'alignment'])}",
            "---",
            "",
        ]
    )


def model_card(project: Project, version: ModelVersion, evaluation: Evaluation | None, gates: Sequence[Gate]) -> str:
    sections = [
        _details(project, version),
        _training_data(version),
        _evaluation(evaluation),
        _gate(gates),
        _caveats(evaluation),
    ]
    return "\n\n".join(sections) + "\n"


def under_heading(card: str) -> str:
    """The card on a page that has the title already: without its own, and one level up."""
    return re.sub(r"(?m)^#(#+ )", r"\1", card.partition("\n")[2])


def code(value: object) -> str:
    """A value as inline code; a backtick or line break in a name cannot end it."""
    return f"`{' '.join(str(value).replace('`', chr(39)).split())}`"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def _details(project: Project, version: ModelVersion) -> str:
    config: dict[str, Any] = version.run.config
    lora: dict[str, Any] = config.get("lora", {})
    rows = [
        ["Project", code(project.name)],
        ["Base model", code(base_model_label(version.run))],
        ["Method", f"{objective(version.run.objective)}, beta {config.get('beta', 'default')}"],
        ["Started from", _start(config)],
        ["Run", f"{code(version.run.name)}, step {num(version.checkpoint.step)} of {num(version.run.total_steps)}"],
        ["Adapter", f"LoRA, rank {lora.get('r', 'default')}, alpha {lora.get('alpha', 'default')}"],
        ["Learning rate", str(config.get("learning_rate", "default"))],
        ["Seed", str(config.get("seed", 0))],
        ["Checkpoint manifest", f"sha256 {code(version.checkpoint.manifest_sha256)}"],
        ["Made", day(version.created_at)],
    ]
    note = f"\n\n{version.note}" if version.note else ""
    return f"# {code(project.name)} v{version.number}{note}\n\n## Details\n\n{_table(['What', 'Value'], rows)}"


def _start(config: dict[str, Any]) -> str:
    if not config.get("init_adapter"):
        return "the base model, which is the reference"
    reference = "it is the reference too" if config["reference"] == "adapter" else "the base model is the reference"
    return f"{config['init_adapter']}; {reference}"


def _training_data(version: ModelVersion) -> str:
    snapshot = version.run.snapshot
    rows = [
        [split, num(part["desirable"]), num(part["undesirable"]), pct(part["desirable"] / max(total, 1))]
        for split in ("train", "dev", "test")
        if (part := snapshot.counts.get(split)) is not None
        and (total := part["desirable"] + part["undesirable"]) is not None
    ]
    rule = snapshot.rule.get("label", "majority of the current ratings of a completion")
    return (
        f"## Training data\n\nSnapshot {code(snapshot.content_hash)}. Label: {rule}. Split by conversation root: "
        f"no conversation is on two sides.\n\n{_table(['Split', 'Desirable', 'Undesirable', 'Share desirable'], rows)}"
    )


def _evaluation(evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return "## Evaluation\n\nThis checkpoint was not evaluated."
    held = evaluation.heldout
    rows = [
        ["AUC within the prompt", spoken(held["auc_within_prompt"])],
        ["AUC pooled", spoken(held["auc"])],
        ["AUC of length alone", spoken(held["auc_length"])],
        ["Accuracy", spoken(held["accuracy"])],
        ["KL, nats", spoken(held["kl"])],
    ]
    text = (
        f"## Evaluation\n\n{ranking_sentence(held)}\n\nImplied rewards of the dev split, 95 % intervals clustered by prompt.\n\n"
        f"{_table(['Figure', 'Value'], rows)}\n\n### Diversity\n\n{diversity_sentence(evaluation.diversity)}"
    )
    if evaluation.diversity is None:
        return text
    overall = evaluation.diversity["overall"]
    changes = [
        [
            name,
            num(overall[key]["reference"], digits),
            num(overall[key]["policy"], digits),
            signed(overall[key]["change"], digits),
        ]
        for key, (name, digits) in _METRICS.items()
    ]
    return f"{text}\n\n{_table(['Metric', 'Reference', 'Policy', 'Change'], changes)}"


def _gate(gates: Sequence[Gate]) -> str:
    rows = [[gate.name, _STATES[gate.state], gate.num or DASH, gate.rule] for gate in gates]
    return (
        f"## Gate\n\n{summary_of(list(gates)).capitalize()}.\n\n{_table(['Gate', 'Outcome', 'Figure', 'Rule'], rows)}"
    )


def _caveats(evaluation: Evaluation | None) -> str:
    lines = [
        "- The checkpoint may have been chosen on the dev split, so its figures flatter it a little.",
        "- Safety and refusals were not tested.",
    ]
    if evaluation is not None and evaluation.diversity is not None:
        lines.append("- Diversity is of raw samples: a wanted style that spreads also makes them more alike.")
    return "## Caveats\n\n" + "\n".join(lines)
