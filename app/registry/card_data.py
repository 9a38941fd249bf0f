"""A version's model card as data: every figure is a record's, nothing is written by hand. Markdown is made from it (card.py).

Sections follow Mitchell et al. 2019 (arXiv 1810.03993).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app.models import AuditEntry, ModelVersion, Project
from app.registry.gates import Evidence, Gate, summary_of
from app.registry.labels import base_model_label
from app.web.formats import objective


def card_data(
    project: Project, version: ModelVersion, evidence: Evidence, gates: Sequence[Gate], promotions: Sequence[AuditEntry]
) -> dict[str, Any]:
    """Free of anything that JSON cannot hold. ``promotions``: the audit entries of this version, newest first."""
    evaluation = evidence.evaluation
    return {
        "name": f"{project.slug}-v{version.number}",
        "project": project.name,
        "version": version.number,
        "note": version.note,
        "made_at": version.created_at.isoformat(),
        "details": _details(version),
        "training_data": _training_data(version),
        "evaluation": {
            "kind": evaluation.kind,
            "split": "dev",
            "heldout": evaluation.heldout,
            "diversity": evaluation.diversity,
            "alarms": [
                {"kind": alarm.kind, "level": alarm.level, "subject": alarm.subject, "text": alarm.data["text"], "resolution": alarm.resolution, "reason": alarm.reason}
                for alarm in evidence.alarms
            ],
        }
        if evaluation
        else None,
        "kto_against_dpo": evidence.decision,
        "suites": [
            {"name": suite.name, "kind": suite.kind, "content_hash": suite.content_hash, "num_samples": suite.num_samples, "num_without_verdict": suite.num_failed, "summary": suite.summary}
            for suite in evidence.suites
        ],
        "gate": {
            "summary": summary_of(gates),
            "gates": [
                {"key": gate.key, "name": gate.name, "state": gate.state, "figure": gate.num, "interval": gate.interval, "evidence": gate.evidence, "rule": gate.rule}
                for gate in gates
            ],
            "promotions": [{"at": entry.at.isoformat(), **{key: entry.details.get(key) for key in ("reason", "asked", "gates")}} for entry in promotions],
        },
        "caveats": caveats(evidence),
        "nist_ai_rmf": nist_mapping(version, evidence, gates, promotions),
    }  # fmt: skip


def _details(version: ModelVersion) -> dict[str, Any]:
    config: dict[str, Any] = version.run.config
    return {
        "base_model": base_model_label(version.run),
        "objective": version.run.objective,
        "method": objective(version.run.objective),
        "beta": config.get("beta"),
        "learning_rate": config.get("learning_rate"),
        "seed": config.get("seed", 0),
        "lora": config.get("lora", {}),
        "init_adapter": config.get("init_adapter", ""),
        "reference": config.get("reference") or "base",
        "data": config.get("data", "all"),
        "run": version.run.name,
        "step": version.checkpoint.step,
        "total_steps": version.run.total_steps,
        "manifest_sha256": version.checkpoint.manifest_sha256,
    }


def _training_data(version: ModelVersion) -> dict[str, Any]:
    snapshot = version.run.snapshot
    return {
        "snapshot": snapshot.content_hash,
        "rule": snapshot.rule.get("label", "majority of the current ratings of a completion"),
        "counts": {split: snapshot.counts[split] for split in ("train", "dev", "test") if split in snapshot.counts},
        "num_erased": snapshot.counts.get("erased", {}).get("rows", 0),
    }


def caveats(evidence: Evidence) -> list[str]:
    found = ["The checkpoint may have been chosen on the dev split, so its figures flatter it a little."]
    if evidence.evaluation is not None and evidence.evaluation.diversity is not None:
        measured = evidence.evaluation.diversity
        rule = measured.get("quality_rule")
        found.append(f"Diversity: {rule}" if rule else "Diversity is of raw samples: a wanted style that spreads also makes them more alike.")  # fmt: skip
        if measured.get("detectable_change") is not None:
            found.append(f"A change of normalised similarity below {measured['detectable_change']:.3f} could not have been seen.")  # fmt: skip
    kinds = {suite.kind for suite in evidence.suites}
    for kind, words in (
        ("redteam", "Answers to harmful requests were not tested."),
        ("benign", "Refusals of benign requests were not tested."),
        ("eval", "No suite of the team's own tasks was run."),
    ):
        if kind not in kinds:
            found.append(words)
    if evidence.decision is None:
        found.append("No DPO baseline was compared.")
    found += [f"Open alarm: {alarm.data['text']}" for alarm in evidence.alarms if not alarm.resolution]
    return found


def nist_mapping(
    version: ModelVersion, evidence: Evidence, gates: Sequence[Gate], promotions: Sequence[AuditEntry]
) -> list[dict[str, Any]]:
    """Which record speaks to which function of the NIST AI RMF 1.0. A map for readers, not a claim of compliance."""
    suites = {suite.kind for suite in evidence.suites}
    measured = evidence.evaluation is not None
    rows: list[tuple[str, str, str, bool]] = [
        ("GOVERN", "risk tolerance, roles and records", "gate policy, roles, audit trail", bool(gates)),
        ("MAP", "data and third-party model", f"snapshot {version.run.snapshot.content_hash[:8]}, base model {base_model_label(version.run)}", True),
        ("MEASURE", "validity on documented test sets", "held-out reward with intervals", measured),
        ("MEASURE", "effectiveness against an alternative", "KTO against DPO", evidence.decision is not None),
        ("MEASURE", "output diversity", "diversity over categories, alarms", measured and evidence.evaluation is not None and evidence.evaluation.diversity is not None),
        ("MEASURE", "safety", "suites of harmful requests", "redteam" in suites),
        ("MEASURE", "over-refusal", "suites of benign requests", "benign" in suites),
        ("MEASURE", "deployment-like tasks", "suites of the team", "eval" in suites),
        ("MANAGE", "go or no-go", "gate outcomes, promotions with their reasons", bool(promotions)),
        ("MANAGE", "monitoring after deployment and rollback", "Monitoring page, incidents, alias production", bool(promotions)),
    ]  # fmt: skip
    return [{"function": f, "subject": s, "record": r, "present": present} for f, s, r, present in rows]
