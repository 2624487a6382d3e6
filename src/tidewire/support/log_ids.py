"""The ids of the current span in log records, by the names of OpenTelemetry's non-OTLP formats.

https://opentelemetry.io/docs/specs/otel/compatibility/logging_trace_context/
"""

from __future__ import annotations

import logging
import sys

__all__ = ("LogIds", "log_ids_of")


class LogIds(logging.Filter):
    """Gives each record that is written during a span its `trace_id` and `span_id`; keeps every record."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the ids of the current span; a process that has not imported OpenTelemetry has none."""
        trace = sys.modules.get("opentelemetry.trace")
        if trace is not None and not hasattr(record, "trace_id"):
            context = trace.get_current_span().get_span_context()
            if context.is_valid:
                record.trace_id, record.span_id = f"{context.trace_id:032x}", f"{context.span_id:016x}"
        return True


def log_ids_of(record: logging.LogRecord) -> dict[str, str]:
    """Return the ids that a record was given."""
    return {name: getattr(record, name) for name in ("trace_id", "span_id") if hasattr(record, name)}
