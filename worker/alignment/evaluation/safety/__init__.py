"""Harmful requests and over-refusal: requests, transforms, importers, canaries, reports of other tools, summaries."""
