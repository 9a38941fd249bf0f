"""Suites: prompts with checks, as a YAML header and JSON lines. Free of torch: the web app and the worker read the same."""
