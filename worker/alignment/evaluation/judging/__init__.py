"""Models behind an OpenAI-compatible address as judges, guards and encoders."""
