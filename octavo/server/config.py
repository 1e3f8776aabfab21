"""The HTTP server's settings, declared like the engine's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from octavo.config import check_settings, setting
from octavo.sampling_params import MAX_LOGPROBS

DEMO_NAME = "SmolLM2-135M-Instruct"


@dataclass(slots=True, kw_only=True)
class ServerConfig:
    """Everything that the HTTP side needs to know; vLLM's names where vLLM has one."""

    host: str = setting("0.0.0.0", "Address to listen on; 127.0.0.1 keeps it to this machine.", "Server")
    port: int = setting(8000, "Port to listen on; 0 takes a free one.", "Server", low=0, high=65535)
    uds: str | None = setting(None, "Listen on this Unix socket in place of --host and --port.", "Server")
    served_model_name: tuple[str, ...] = setting(
        (), "Names that requests may call the model by; the first is reported. Default: MODEL.", "Server"
    )
    root_path: str = setting("", "Path prefix that a reverse proxy strips.", "Server")
    api_server_count: int = setting(
        1, "API processes that accept connections, in front of the one engine.", "Server", low=1, high=64
    )
    middleware: tuple[str, ...] = setting(
        (),
        "Import paths of ASGI classes or `async def middleware(request, call_next)` to put around "
        "the server. The code that is named here runs, so this is read from the command line "
        "only, not from --config or the environment.",
        "Server",
    )
    disable_fastapi_docs: bool = setting(False, "Serve no /docs and no /openapi.json.", "Server")
    enable_request_id_headers: bool = setting(
        False, "Send back the request's X-Request-Id, or a random one where it has none.", "Server"
    )
    shutdown_timeout: int = setting(
        30,
        "How long open requests may go on after SIGTERM or Ctrl-C before they are cut off.",
        "Server",
        unit="seconds",
        low=0,
    )

    max_request_bytes: int = setting(
        32 << 20, "Largest request body; a larger one gets 413.", "Limits", unit="bytes", low=1024
    )
    h11_max_incomplete_event_size: int = setting(
        64 << 10,
        "Largest headers of a request, together with its first line; larger ones get 431, or 400 where they "
        "come in pieces.",
        "Limits",
        unit="bytes",
        low=1024,
        aliases=("--max-header-bytes",),
    )
    h11_max_header_count: int = setting(256, "Most headers of a request; more get 431.", "Limits", low=16)
    max_logprobs: int = setting(
        20,
        "Most log probabilities a token that a request may ask for; -1 allows the whole vocabulary too.",
        "Limits",
        low=-1,
        high=MAX_LOGPROBS,
    )
    max_stored_responses: int = setting(
        1000,
        "Most responses of /v1/responses that are kept, to be read or continued. The least "
        "recently used one is dropped first. 0 keeps none.",
        "Limits",
        low=0,
    )
    max_waiting: int | None = setting(
        None,
        "Most prompts that may wait for their first token. When that many wait, further requests "
        "are refused with 429 and Retry-After. Default: no bound.",
        "Limits",
        low=1,
    )
    max_connections: int = setting(
        4096,
        "Most open connections of each API process. Requests on further connections are refused with 503.",
        "Limits",
        low=1,
        high=1 << 20,
    )
    request_read_timeout: float = setting(
        60.0,
        "Time that a request, headers and body, may take to arrive. Then it is answered with 408.",
        "Limits",
        unit="seconds",
        low=0.01,
    )
    timeout_keep_alive: int = setting(
        5, "How long a connection may be idle between two requests.", "Limits", unit="seconds", low=0
    )
    request_timeout: float | None = setting(
        None,
        "Longest time that a request may take; its `timeout` field can ask for less. A request that has no "
        "token by then is answered with 504, and one that has tokens ends with finish_reason `timeout`. "
        "Default: no limit.",
        "Limits",
        unit="seconds",
        low=0.001,
    )

    chat_template: str | None = setting(
        None, "A Jinja file, or the template itself, in place of the model's chat template.", "Chat"
    )
    chat_template_timeout: float = setting(
        5.0, "Time that a chat template may take to write a prompt.", "Chat", unit="seconds", low=0.01
    )
    trust_request_chat_template: bool = setting(
        False, "Let requests bring their own chat template, which runs on the server, sandboxed.", "Chat"
    )
    response_role: str = setting("assistant", "Role of the generated message.", "Chat")
    enable_auto_tool_choice: bool = setting(
        False, "Accepted with --tool-call-parser, without effect: there is no tool calling yet.", "Chat"
    )
    tool_call_parser: str | None = setting(
        None,
        "Accepted, without effect: there is no tool calling yet, and requests with tools are refused.",
        "Chat",
    )
    return_tokens_as_token_ids: bool = setting(
        False, "Write the tokens of log probabilities as `token_id:5`, where a request does not say.", "Chat"
    )
    enable_force_include_usage: bool = setting(
        False, "End every stream with its usage, even where the request does not ask for it.", "Chat"
    )

    api_key: tuple[str, ...] = setting(
        (),
        "Keys. Requests to /v1 must carry one of them, as `Authorization: Bearer KEY`. "
        "OCTAVO_API_KEY in the environment is one more key.",
        "Access",
    )
    allowed_origins: tuple[str, ...] = setting(
        ("*",), "Web origins that browsers may call from (CORS).", "Access"
    )
    allowed_methods: tuple[str, ...] = setting(("*",), "Methods for CORS.", "Access")
    allowed_headers: tuple[str, ...] = setting(("*",), "Headers for CORS.", "Access")
    allow_credentials: bool = setting(
        False, "Let browsers send cookies (CORS); only with origins that --allowed-origins names.", "Access"
    )
    ssl_keyfile: str | None = setting(None, "The TLS private key, to serve https.", "Access")
    ssl_certfile: str | None = setting(None, "The TLS certificate chain.", "Access")
    ssl_ca_certs: str | None = setting(
        None, "CA certificates that clients' certificates are checked against.", "Access"
    )
    ssl_cert_reqs: int = setting(
        0, "Certificates of clients: 0 asks for none, 1 accepts one, 2 requires one.", "Access", low=0, high=2
    )

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
        "Time between two lines of statistics. An idle server logs none, and 0 (or "
        "--disable-log-stats) turns them off.",
        "Logging",
        unit="seconds",
        low=0,
    )
    disable_log_requests: bool = setting(
        False, "Log no line per request.", "Logging", aliases=("--disable-uvicorn-access-log",)
    )
    enable_log_requests: bool = setting(
        False, "Log each prompt, its text included, and its sampling parameters.", "Logging"
    )
    max_log_len: int | None = setting(
        None,
        "Most characters and token ids of a prompt that --enable-log-requests shows. Default: all.",
        "Logging",
        low=0,
    )

    otlp_traces_endpoint: str | None = setting(
        None,
        "Send a trace of each request to this OpenTelemetry collector, such as "
        "http://localhost:4318/v1/traces (needs octavo[otlp]) or, by gRPC, http://localhost:4317 "
        "(needs octavo[otlp-grpc]).",
        "Logging",
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if (self.ssl_keyfile is None) != (self.ssl_certfile is None):
            raise ValueError("ssl_keyfile (--ssl-keyfile) and ssl_certfile (--ssl-certfile) go together")
        if any(not key for key in self.api_key):
            raise ValueError("api_key (--api-key) must not be empty; leave it out to serve without keys")
        if self.enable_auto_tool_choice and self.tool_call_parser is None:
            raise ValueError("enable_auto_tool_choice (--enable-auto-tool-choice) needs --tool-call-parser")
        if self.enable_log_requests and self.disable_log_requests:
            raise ValueError(
                "enable_log_requests (--enable-log-requests) and --disable-log-requests exclude each other"
            )
        if self.allow_credentials and "*" in self.allowed_origins:
            raise ValueError(
                "allow_credentials (--allow-credentials) needs --allowed-origins to name the origins: with * "
                "any site that a user visits could send requests in the user's name"
            )
        if self.ssl_certfile is None and (self.ssl_ca_certs is not None or self.ssl_cert_reqs):
            raise ValueError("ssl_ca_certs (--ssl-ca-certs) and --ssl-cert-reqs need --ssl-certfile")

    def model_names(self, model: str) -> list[str]:
        """What requests may call `model`, as the user named it; the first is reported."""
        return list(self.served_model_name) or [model or DEMO_NAME]

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
            context = ssl.create_default_context(cafile=self.ssl_ca_certs)
            context.load_cert_chain(self.ssl_certfile, self.ssl_keyfile)
        except OSError as error:
            files = f"{self.ssl_certfile} and {self.ssl_keyfile}"
            raise ValueError(f"ssl_certfile (--ssl-certfile): cannot use {files}: {error}") from error
