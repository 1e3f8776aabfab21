"""A plan as a person or a program reads it."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from octavo.plan.memory import MemoryPlan
from octavo.plan.service import Latency, Service


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked and what follows. Prices are in the unit that the price was given in."""

    model: str
    machine: str
    devices_per_replica: int
    requests_per_second: float
    input_tokens: int
    output_tokens: int
    target_ttft: float
    target_itl: float
    memory: MemoryPlan
    service: Service | None
    flags: list[str]
    price_per_hour: float | None = None
    advice: list[str] = []

    @property
    def price_of_all(self) -> float | None:
        """An hour of all replicas, None without a price or a plan."""
        replicas = self.service.replicas if self.service else None
        if self.price_per_hour is None or replicas is None:
            return None
        return self.price_per_hour * self.devices_per_replica * replicas

    def to_json(self) -> bytes:
        """All of it, and what follows from it, as JSON."""
        memory = self.memory
        body = msgspec.to_builtins(self) | {
            "fits": memory.fits,
            "kv_bytes_per_sequence": memory.bytes_per_sequence,
            "max_concurrency": memory.sequences_of(memory.max_model_len),
            "price_per_hour_in_all": self.price_of_all,
        }
        return msgspec.json.format(msgspec.json.encode(body))

    def lines(self) -> Iterator[str]:
        """For a terminal."""
        memory = self.memory
        yield f"{'model':<12}{self.model}: weights {gigabytes(memory.weight_bytes)}"
        yield f"{'machine':<12}{self.machine}"
        yield (
            f"{'KV cache':<12}{memory.kv_bytes_per_token / 1024:.1f} KiB a token, "
            f"{gigabytes(memory.bytes_per_sequence)} for a sequence of {memory.max_model_len:,} tokens"
        )
        if memory.fits:
            yield (
                f"{'fits':<12}yes: {gigabytes(memory.kv_cache_bytes)} for the KV cache, sequences of "
                f"{memory.max_model_len:,} tokens: {memory.sequences_of(memory.max_model_len):.1f}, of "
                f"{memory.tokens_per_request:,}: {memory.sequences_of(memory.tokens_per_request):.1f}"
            )
        else:
            yield (
                f"{'fits':<12}no: {gigabytes(memory.kv_cache_bytes)} are left for the KV cache of "
                f"{gigabytes(memory.total_bytes)}"
            )
        if self.service is not None:
            yield from self._service_lines(self.service)
        for advice in self.advice:
            yield f"{'advice':<12}{advice}"

    def _service_lines(self, service: Service) -> Iterator[str]:
        yield f"{'unloaded':<12}{_latency(service.unloaded)}"
        yield (
            f"{'a replica':<12}at most {service.capacity_rps:.2f} requests/s, "
            f"{service.capacity_output_tokens:,.0f} output tokens/s"
        )
        lengths = f"{self.input_tokens:,} + {self.output_tokens:,} tokens"
        asked = f"{self.requests_per_second:g} requests/s of {lengths}"
        targets = f"p95 within {1e3 * self.target_ttft:,.0f} and {1e3 * self.target_itl:,.0f} ms"
        if service.replicas is None or service.loaded is None:
            yield f"{'replicas':<12}none would do for {asked}, {targets}"
            return
        yield f"{'replicas':<12}{service.replicas} for {asked}, {targets}"
        yield f"{'loaded':<12}{_latency(service.loaded)}"
        yield f"{'':<12}up to {service.concurrency} requests at a time on a replica"
        if (price := self.price_of_all) is not None:
            million = price / (self.requests_per_second * self.output_tokens * 3600) * 1e6
            yield f"{'cost':<12}{price:,.2f} an hour, {million:,.2f} a million output tokens"
        yield f"{'flags':<12}{' '.join(self.flags)}"


def gigabytes(count: float) -> str:
    """Bytes in 10^9."""
    return f"{count / 1e9:,.2f} GB"


def _latency(latency: Latency) -> str:
    return (
        f"first token p50 {_milliseconds(latency.ttft_p50)} p95 {_milliseconds(latency.ttft_p95)}, "
        f"between tokens p50 {_milliseconds(latency.itl_p50)} p95 {_milliseconds(latency.itl_p95)}, "
        f"in all p95 {latency.e2e_p95:.2f} s"
    )


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:,.0f} ms" if seconds >= 0.1 else f"{1e3 * seconds:.1f} ms"
