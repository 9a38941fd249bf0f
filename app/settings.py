"""Settings, read once from the environment (prefix ``KTO_``; ``DATABASE_URL`` and ``REDIS_URL`` by their common names)."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="KTO_", env_file=None, extra="ignore", populate_by_name=True)

    database_url: str = Field("", validation_alias="DATABASE_URL")
    """PostgreSQL, e.g. postgresql+psycopg://user:password@host/db. Empty: `kto up` starts the bundled one."""
    redis_url: str = Field("", validation_alias="REDIS_URL")
    """Redis, e.g. redis://host:6379/0 or unix:///path.sock. Empty: `kto up` starts the bundled one."""
    data_dir: Path = Path()
    """Folder of the bundled services and of local artifacts. Empty: the user's data home."""
    artifacts_url: str = ""
    """Where snapshots, checkpoints and exports live: a folder or an fsspec URL. Empty: <data_dir>/artifacts."""
    model_roots: list[Path] = []
    """Folders whose sub-folders may be used as base models. The demo model's folder is always one of them."""
    allow_hub_models: bool = True
    """Whether a base model may be named by hub id."""
    host: str = "127.0.0.1"
    """Address to bind. Anything but a loopback address must be set on purpose."""
    port: int = Field(8000, ge=1, le=65535)
    allowed_hosts: list[str] = ["localhost", "127.0.0.1", "[::1]"]
    """Host header allow-list. The host of `public_url` and this machine's own names are always on it."""
    public_url: str = ""
    """Address that users type, e.g. https://kto.example.org. https switches the cookie to `__Host-`."""
    secret_key: str = ""
    """At least 32 characters; signs CSRF tokens. Empty: made once and kept in <data_dir>/secrets."""
    session_hours: int = 24 * 14
    max_import_bytes: int = 256 * 1024 * 1024
    """Largest file that an import accepts."""
    max_request_bytes: int = 5 * 1024 * 1024
    """Largest body of an API request."""
    max_prompt_chars: int = 200_000
    """Longest prompt or completion that is stored, in characters."""
    lease_seconds: int = 30
    """A worker that has not been heard of for so long loses its run to another attempt."""
    stop_grace_seconds: int = 60
    """Time between asking a trainer to stop and killing it."""
    max_attempts: int = 5
    """Automatic resumes of one run, the first try included."""
    trainer_command: list[str] = []
    """Put before `train <spec.json>`, e.g. ["nice", "-n", "10", "python", "-m", "worker.alignment"]. Empty: this Python's."""
    log_level: str = "INFO"

    @property
    def answered_hosts(self) -> list[str]:
        """Health checks come by the loopback names, people by the public one."""
        public = urlsplit(self.public_url).hostname
        return [*self.allowed_hosts, "localhost", "127.0.0.1", "[::1]", *([public] if public else [])]

    @property
    def secure_cookies(self) -> bool:
        return self.public_url.startswith("https://")


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    return Settings()
