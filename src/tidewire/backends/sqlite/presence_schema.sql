-- Who is in which channel, on all processes of one machine; not fsynced, and made anew when it is damaged.

-- A row of a living process counts up. `dead`: 1, its members may be claimed; 2, it was closed, and they are not listed.
CREATE TABLE IF NOT EXISTS nodes (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    name    TEXT    NOT NULL,
    token   TEXT    NOT NULL,
    counter INTEGER NOT NULL DEFAULT 0,
    dead    INTEGER NOT NULL DEFAULT 0
);

CREATE TABLE IF NOT EXISTS members (
    seq                 INTEGER PRIMARY KEY AUTOINCREMENT,
    channel             TEXT    NOT NULL,
    connection          TEXT    NOT NULL,
    user                TEXT    NOT NULL,
    info                BLOB    NOT NULL,
    node                INTEGER NOT NULL,
    announcement        BLOB,
    announcement_format INTEGER,
    UNIQUE (channel, connection)
);
CREATE INDEX IF NOT EXISTS members_by_user ON members (channel, user);
CREATE INDEX IF NOT EXISTS members_by_node ON members (node);

-- Claimed and not yet forgotten; `claims` counts how often.
CREATE TABLE IF NOT EXISTS departures (
    token               TEXT    PRIMARY KEY,
    channel             TEXT    NOT NULL,
    user                TEXT    NOT NULL,
    announcement        BLOB,
    announcement_format INTEGER,
    claims              INTEGER NOT NULL
) WITHOUT ROWID;
