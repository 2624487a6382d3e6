-- Everything of one store. Names have a prefix, because the file may be shared with an application's own tables.

-- One row: what the store is, and its clock (see store_clock.py).
CREATE TABLE IF NOT EXISTS tidewire_store (
    one       INTEGER PRIMARY KEY CHECK (one = 1),
    version   INTEGER NOT NULL,
    seed      TEXT    NOT NULL,
    clock     REAL    NOT NULL,
    monotonic REAL    NOT NULL,
    wall      REAL    NOT NULL,
    boot      TEXT    NOT NULL
);

-- `top` outlives the publications; what is at or below `floor` was removed on request.
CREATE TABLE IF NOT EXISTS tidewire_channels (
    id        INTEGER PRIMARY KEY,
    name      TEXT    NOT NULL UNIQUE,
    epoch     TEXT    NOT NULL,
    top       INTEGER NOT NULL,
    floor     INTEGER NOT NULL DEFAULT 0,
    keep_size INTEGER NOT NULL,
    keep_age  REAL    NOT NULL
);

-- AUTOINCREMENT: every process reads on from the last id that it has seen, so an id must never come twice.
-- `time` is the wall clock's, for people; `kept` is the store clock's, for ages.
CREATE TABLE IF NOT EXISTS tidewire_publications (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    channel  INTEGER NOT NULL,
    "offset" INTEGER NOT NULL,
    time     REAL    NOT NULL,
    kept     REAL    NOT NULL,
    format   INTEGER NOT NULL,
    data     BLOB    NOT NULL,
    meta     BLOB    NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS tidewire_publications_by_offset ON tidewire_publications (channel, "offset");

CREATE TABLE IF NOT EXISTS tidewire_keys (
    channel  INTEGER NOT NULL,
    key      TEXT    NOT NULL,
    "offset" INTEGER NOT NULL,
    expires  REAL    NOT NULL,
    PRIMARY KEY (channel, key)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS tidewire_keys_by_expiry ON tidewire_keys (expires);
