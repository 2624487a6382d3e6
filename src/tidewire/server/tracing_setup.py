"""Traces of the server: FastAPI makes the provider from the standard OTEL_* variables, and no span holds a secret."""

from __future__ import annotations

from tidewire.server.logs import without_secrets

__all__ = ("hide_secrets",)


def hide_secrets() -> None:
    """Keep tokens and keys in queries out of the spans that FastAPI makes of requests; nothing without the SDK."""
    try:
        from opentelemetry.context import Context
        from opentelemetry.sdk.trace import Span, SpanProcessor, TracerProvider
        from opentelemetry.trace import get_tracer_provider
    except ModuleNotFoundError:
        return

    class WithoutSecrets(SpanProcessor):
        def on_start(self, span: Span, parent_context: Context | None = None) -> None:
            query = (span.attributes or {}).get("url.query")
            if isinstance(query, str):
                span.set_attribute("url.query", without_secrets(query))

    provider = get_tracer_provider()
    if isinstance(provider, TracerProvider):
        provider.add_span_processor(WithoutSecrets())
