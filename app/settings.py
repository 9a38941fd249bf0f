"""Settings, read once from the environment (prefix ``KTO_``; ``DATABASE_URL`` and ``REDIS_URL`` by their common names)."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

MIN_SECRET_CHARS = 32


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="KTO_", env_file=None, extra="ignore", populate_by_name=True)

    database_url: str = Field("", validation_alias="DATABASE_URL")
    """PostgreSQL, e.g. postgresql+psycopg://user:password@host/db. Empty: `kto up` starts the bundled one."""
    redis_url: str = Field("", validation_alias="REDIS_URL")
    """Redis, e.g. redis://host:6379/0 or unix:///path.sock. Empty: `kto up` starts the bundled one."""
    data_dir: Path = Path()
    """Folder of the bundled services and of local artifacts. Empty: the user's data home."""
    artifacts_url: str = ""
    """The folder where snapshots, checkpoints and exports live. Empty: <data_dir>/artifacts."""
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
    session_hours: int = Field(24 * 14, ge=1)
    """How long a sign-in lasts."""
    max_import_bytes: int = Field(2 * 1024**3, ge=1)
    """Largest file that an import accepts, also when it is unpacked."""
    max_request_bytes: int = Field(5 * 1024 * 1024, ge=1)
    """Largest body of an API request."""
    max_prompt_chars: int = Field(200_000, ge=1)
    """Longest prompt or completion that is stored, in characters."""
    secret_key_rate: int = Field(6000, ge=1)
    """Requests a minute with one secret API key, where the key says nothing else."""
    publishable_key_rate: int = Field(600, ge=1)
    """The same with one publishable key."""
    lease_seconds: int = Field(30, ge=1)
    """A worker that has not been heard of for so long loses its run to another attempt."""
    stop_grace_seconds: int = Field(60, ge=0)
    """Time between asking a trainer to stop and killing it."""
    max_attempts: int = Field(5, ge=1)
    """Automatic resumes of one run, the first try included."""
    allow_private_endpoints: list[str] = []
    """Hosts and networks inside this network that endpoints may name, e.g. ["localhost", "10.0.0.0/8"]. All others are refused."""
    trainer_command: list[str] = []
    """Put before `train <spec.json>`, e.g. ["nice", "-n", "10", "python", "-m", "worker.alignment"]. Empty: this Python's."""
    trainer_processes: int = Field(0, ge=0)
    """Processes of one run, each on a device of its own. 0: as many as the worker has CUDA devices, one on a CPU."""
    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(str.upper)] = "INFO"
    """Of the messages of web and workers."""

    @field_validator("artifacts_url")
    @classmethod
    def _is_folder(cls, value: str) -> str:
        if "://" in value:
            raise ValueError("name a folder: object stores are not supported in this version")
        return value

    @field_validator("secret_key")
    @classmethod
    def _is_long(cls, value: str) -> str:
        if 0 < len(value) < MIN_SECRET_CHARS:
            raise ValueError(f"needs at least {MIN_SECRET_CHARS} characters, or none for a key made by itself")
        return value

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
