"""KTO, DPO and SFT of a causal LM with LoRA, as a library and a command line: no web, database or queue.

    from worker.alignment.config import AlignmentConfig, TrainSpec
    from worker.alignment.reporters import JsonlReporter
    from worker.alignment.trainer import train

    config = AlignmentConfig(base_model="base", objective="kto")
    spec = TrainSpec(run_id=1, attempt=1, config=config, model_path="base", snapshot_dir="snapshot",
                     attempt_dir="attempt-1", cache_dir="cache")
    with JsonlReporter(spec.events_path) as reporter:
        finished = train(spec, reporter)

The same from a shell: ``python -m worker.alignment train spec.json``, where spec.json is ``spec.to_json()``. See docs/kto.md.
"""
