"""The HTTP server's settings, declared like the engine's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from octavo.config import check_settings, setting
from octavo.sampling_params import MAX_LOGPROBS


@dataclass(slots=True, kw_only=True)
class ServerConfig:
    """Everything that the HTTP side needs to know; vLLM's names where vLLM has one."""

    host: str = setting("0.0.0.0", "Address to listen on; 127.0.0.1 keeps it to this machine.", "Server")
    port: int = setting(8000, "Port to listen on; 0 takes a free one.", "Server", low=0, high=65535)
    served_model_name: tuple[str, ...] = setting(
        (), "Names that requests may call the model by; the first is reported. Default: MODEL.", "Server"
    )
    root_path: str = setting("", "Path prefix that a reverse proxy strips.", "Server")
    max_request_bytes: int = setting(
        32 << 20, "Largest request body; a larger one gets 413.", "Server", unit="bytes", low=1024
    )
    h11_max_incomplete_event_size: int = setting(
        64 << 10,
        "Largest headers of a request, together with its first line; larger ones get 431, or 400 where they "
        "come in pieces.",
        "Server",
        unit="bytes",
        low=1024,
        aliases=("--max-header-bytes",),
    )
    h11_max_header_count: int = setting(256, "Most headers of a request; more get 431.", "Server", low=16)
    max_logprobs: int = setting(
        20,
        "Most log probabilities a token that a request may ask for; -1 allows the whole vocabulary too.",
        "Server",
        low=-1,
        high=MAX_LOGPROBS,
    )
    max_waiting: int | None = setting(
        None,
        "Most prompts that may wait for their first token; a request that finds so many is refused with 429 "
        "and Retry-After. Default: no bound.",
        "Server",
        low=1,
    )
    request_timeout: float | None = setting(
        None,
        "Longest that a request may take; its `timeout` field can ask for less. One that has no token by "
        'then is answered with 504, one that has ends with finish_reason "timeout". Default: no limit.',
        "Server",
        unit="seconds",
        low=0.001,
    )
    shutdown_timeout: int = setting(
        30,
        "How long open requests may go on after SIGTERM or Ctrl-C before they are cut off.",
        "Server",
        unit="seconds",
        low=0,
    )

    chat_template: str | None = setting(
        None, "A Jinja file, or the template itself, in place of the model's chat template.", "Chat"
    )
    chat_template_timeout: float = setting(
        5.0, "How long a chat template may take to write a prompt.", "Chat", unit="seconds", low=0.01
    )
    trust_request_chat_template: bool = setting(
        False, "Let requests bring their own chat template, which runs on the server, sandboxed.", "Chat"
    )
    response_role: str = setting("assistant", "Role of the generated message.", "Chat")

    api_key: tuple[str, ...] = setting(
        (),
        "Keys of which /v1 requests must carry one, as `Authorization: Bearer KEY`. "
        "The environment's OCTAVO_API_KEY counts as one.",
        "Access",
    )
    allowed_origins: tuple[str, ...] = setting(
        ("*",), "Web origins that browsers may call from (CORS).", "Access"
    )
    ssl_keyfile: str | None = setting(None, "The TLS private key, to serve https.", "Access")
    ssl_certfile: str | None = setting(None, "The TLS certificate chain.", "Access")

    disable_page: bool = setting(
        False, "Serve no page at / and no live view of the engine at /octavo/live.", "Page"
    )
    page_show_text: bool = setting(
        False,
        "Show the first words of every cached prefix, whoever sent it, to whoever may open the page.",
        "Page",
    )

    uvicorn_log_level: str = setting(
        "info",
        "How much the HTTP server logs.",
        "Logging",
        choices=("critical", "error", "warning", "info", "debug", "trace"),
    )
    log_format: str = setting(
        "text",
        "Lines for people, or a JSON object a line with time, level, logger, message and the request's id.",
        "Logging",
        choices=("text", "json"),
    )
    log_stats_interval: float = setting(
        10.0,
        "Time between two lines of statistics, which an idle server leaves out; 0 (or --disable-log-stats) "
        "logs none.",
        "Logging",
        unit="seconds",
        low=0,
    )
    disable_log_requests: bool = setting(
        False, "Log no line per request.", "Logging", aliases=("--disable-uvicorn-access-log",)
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if (self.ssl_keyfile is None) != (self.ssl_certfile is None):
            raise ValueError("ssl_keyfile (--ssl-keyfile) and ssl_certfile (--ssl-certfile) go together")
        if any(not key for key in self.api_key):
            raise ValueError("api_key (--api-key) must not be empty; leave it out to serve without keys")

    def read_chat_template(self) -> str | None:
        """The text of the template that replaces the model's; a template is told from a path by its braces.

        Raises ValueError when the file can not be read.
        """
        given = self.chat_template
        if given is None or "{" in given:
            return given
        try:
            return Path(given).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"chat_template (--chat-template): cannot read {given}: {error}") from error

    def check_certificate(self) -> None:
        """Raise ValueError when the TLS files can not be read or do not belong together."""
        if self.ssl_certfile is None:
            return
        import ssl

        try:
            ssl.create_default_context().load_cert_chain(self.ssl_certfile, self.ssl_keyfile)
        except OSError as error:
            files = f"{self.ssl_certfile} and {self.ssl_keyfile}"
            raise ValueError(f"ssl_certfile (--ssl-certfile): cannot use {files}: {error}") from error
