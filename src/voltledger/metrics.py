"""Figures for Prometheus. Names that checks rely on stand in the contract; all begin with `voltledger_`."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class Metrics:
    """One registry a process, so that tests can have their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.messages = Counter(
            "voltledger_messages",
            "OCPP messages, by version, action and direction.",
            ("version", "action", "direction"),
            registry=self.registry,
        )
        self.stations_connected = Gauge(
            "voltledger_stations_connected", "Stations with an open socket.", registry=self.registry
        )
        self.settlements = Counter(
            "voltledger_settlements", "Settlements recorded, every version.", registry=self.registry
        )
        self.refunds = Counter(
            "voltledger_refunds_minor",
            "Money refunded, in minor units.",
            ("currency",),
            registry=self.registry,
        )
        self.journal_facts = Gauge(
            "voltledger_journal_facts", "Facts that are not in the database yet.", registry=self.registry
        )
        self.sync_duration = Histogram(
            "voltledger_sync_duration_seconds",
            "Duration of a run of a loop.",
            ("loop",),
            registry=self.registry,
        )
        self.batch_size = Histogram(
            "voltledger_commit_batch_facts",
            "Facts that shared one commit.",
            buckets=(1, 2, 5, 10, 20, 50, 100, 200, 400),
            registry=self.registry,
        )
        self.facts_refused = Counter(
            "voltledger_facts_not_recorded",
            "Facts left unanswered, their socket closed.",
            registry=self.registry,
        )
        self.pool_in_use = Gauge(
            "voltledger_database_connections_in_use", "Busy database connections.", registry=self.registry
        )
        self.redis_memory = Gauge("voltledger_redis_memory_bytes", "Memory that Redis uses.", registry=self.registry)

    def expose(self) -> bytes:
        """The figures in Prometheus' text format."""
        return generate_latest(self.registry)

    def add_read(self, read: Callable[[], Iterable["Figure"]]) -> None:
        """Adds figures whose values are read when they are asked for."""
        self.registry.register(_Read(read))


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure that is read, not kept: values by label, or one under "" without a label."""

    name: str
    text: str
    values: Mapping[str, float]
    label: str = ""
    counter: bool = False


class _Read(Collector):
    def __init__(self, read: Callable[[], Iterable[Figure]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        """The figures, now."""
        for figure in self._read():
            kind = CounterMetricFamily if figure.counter else GaugeMetricFamily
            family = kind(figure.name, figure.text, labels=[figure.label] if figure.label else None)
            for key, value in figure.values.items():
                family.add_metric([key] if figure.label else [], value)
            yield family
