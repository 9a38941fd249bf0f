"""KTO alignment as a library and a command line: no web, database or queue.

    from pathlib import Path
    from worker.alignment.config import AlignmentConfig, TrainSpec
    from worker.alignment.reporters import JsonlReporter
    from worker.alignment.trainer import train

    spec = TrainSpec(run_id=1, attempt=1, config=AlignmentConfig(base_model="base"), model_path="base",
                     snapshot_dir="snapshot", attempt_dir="attempt-1", cache_dir="cache")
    finished = train(spec, JsonlReporter(spec.events_path))

The same from a shell: ``python -m worker.alignment train spec.json``, where spec.json is ``spec.to_json()``.
"""
