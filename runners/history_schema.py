"""The tables of the history, and how rows of the recorder become theirs."""

from typing import Any

# Raised when tables change; a file of another version is refused, not guessed at.
VERSION = 1

SETUP = (
    "PRAGMA auto_vacuum = INCREMENTAL",  # before the first table: deleted rows give their space back
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = NORMAL",
    "PRAGMA busy_timeout = 5000",  # milliseconds; a reader's checkpoint is over long before
)

TABLES = f"""
CREATE TABLE events (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    at REAL NOT NULL,
    subject TEXT NOT NULL,
    type TEXT NOT NULL,
    source TEXT NOT NULL,
    job TEXT,
    node TEXT,
    round INTEGER,
    cause TEXT NOT NULL,
    reason TEXT,
    body TEXT NOT NULL
);
CREATE INDEX events_job ON events (job, seq);
CREATE INDEX events_node ON events (node, seq);
CREATE INDEX events_at ON events (at);
CREATE INDEX events_type ON events (type, node);
CREATE TABLE metrics (
    node TEXT NOT NULL,
    name TEXT NOT NULL,
    at REAL NOT NULL,
    job TEXT,
    value REAL NOT NULL,
    PRIMARY KEY (node, name, at)
) WITHOUT ROWID;
CREATE INDEX metrics_at ON metrics (at);
CREATE TABLE statistics (
    node TEXT NOT NULL,
    name TEXT NOT NULL,
    start REAL NOT NULL,
    "end" REAL NOT NULL,
    count INTEGER NOT NULL,
    mean REAL NOT NULL,
    deviation REAL NOT NULL,
    low REAL NOT NULL,
    high REAL NOT NULL,
    average REAL NOT NULL,
    PRIMARY KEY (node, name, start)
) WITHOUT ROWID;
CREATE INDEX statistics_start ON statistics (start);
PRAGMA user_version = {VERSION};
"""

_COLUMNS = {
    "events": ("id", "at", "subject", "type", "source", "job", "node", "round", "cause", "reason", "body"),
    "metrics": ("node", "name", "at", "job", "value"),
    "statistics": ("node", "name", "start", "end", "count", "mean", "deviation", "low", "high", "average"),
}

STATISTICS = _COLUMNS["statistics"][4:]
"""Columns of a window that are figures."""

AGED = (("events", "at"), ("metrics", "at"), ("statistics", "start"))
"""Tables that are bounded, with the column of a row's age."""


def _insert(table: str, columns: tuple[str, ...]) -> str:
    names = ", ".join(f'"{column}"' for column in columns)
    return f"INSERT OR IGNORE INTO {table} ({names}) VALUES ({', '.join('?' * len(columns))})"


INSERT = {table: _insert(table, columns) for table, columns in _COLUMNS.items()}


def rows_of(table: str, row: dict[str, Any]) -> list[tuple[Any, ...]]:
    """What one of the recorder's rows is in a table: a row of `metrics` carries several figures of one moment.

    Raises:
        KeyError: there is no such table, or the row lacks a field.
    """
    if table == "metrics":
        node, at, job = row["node"], row["at"], row["job"]
        return [(node, name, at, job, value) for name, value in row["values"].items()]
    return [tuple(row[column] for column in _COLUMNS[table])]
