"""Who watches migrations, from outside the engine: Prometheus, logs, and the history of finished ones.

``metrics.Metrics(...).observer(role)`` and ``logs.log_observer(...)`` are observers as
:mod:`migrated.engine.events` has them; ``history.History`` keeps what ended.
"""
