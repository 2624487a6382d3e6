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
            for name in ("url.query", "url.path"):
                text = (span.attributes or {}).get(name)
                if isinstance(text, str):
                    span.set_attribute(name, without_secrets(text))

    provider = get_tracer_provider()
    if isinstance(provider, TracerProvider):
        provider.add_span_processor(WithoutSecrets())
