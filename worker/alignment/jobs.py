"""What an evaluation job is asked to do: free of torch, shared by the web app and the child that runs it.

``python -m worker.alignment evaluate job.json`` loads the base once, swaps the arms' adapters on it, and appends to files under
``out_dir``: what was drawn before a kill is not drawn again.

- ``samples/<arm>/<suite>.jsonl``: {"sample": id, "index": k, "text", "num_tokens", "truncated"}, suite = its content hash
- ``heldout/<arm>.jsonl``: {"id", "prompt_key", "root", "label", "logratio", "num_tokens", "num_words"}
- ``vectors.npz``, ``vectors.json``: of every different sample, where ``encoder`` is asked for (``evaluate_vectors``)
- ``progress.json``: {"phase", "done", "total"}; written whole, atomically
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from worker.alignment.config import AlignmentConfig, build


@dataclass(frozen=True, slots=True, kw_only=True)
class JobArm:
    name: str
    """Of letters, digits, ``-`` and ``_``: it names files."""
    adapter_dir: str = ""
    """Checkpoint folder; "" is the bare base model."""
    system_prompt: str = ""
    """Put before every prompt that has no system message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSuite:
    content_hash: str
    path: str
    """JSON lines {"id", "input": messages, …} as ``suites.format`` writes them."""
    samples_per_prompt: int = 1
    temperature: float = 0.7
    top_p: float = 1.0
    max_tokens: int = 256
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    job_id: int
    model_path: str
    config: AlignmentConfig
    """Of the run: precision, attention, lengths and threads are taken from it."""
    arms: tuple[JobArm, ...]
    out_dir: str
    cache_dir: str
    suites: tuple[JobSuite, ...] = ()
    heldout: str = ""
    """A split's rows (snapshot's test.jsonl); "" scores none."""
    encoder: str = ""
    """Folder of a transformers encoder that the samples' meanings are compared by; "" compares none."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> JobSpec:
        """Raises ConfigError on a wrong field."""
        built: JobSpec = build(cls, data, "")
        return built
