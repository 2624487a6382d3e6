-- Users. `id` is given once and never again, `key` is what two names must not share; `apart` says whether the hub knows
-- the account by a name that no user of the application has: NULL until a server has said so, and 1 for ever.
CREATE TABLE IF NOT EXISTS accounts_users (
    key TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    password TEXT NOT NULL,
    created REAL NOT NULL,
    id TEXT NOT NULL,
    apart INTEGER
) WITHOUT ROWID;

-- Whether the server that was started last sets new accounts apart.
CREATE TABLE IF NOT EXISTS accounts_mode (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    apart INTEGER NOT NULL
);

-- Ids of users that were removed.
CREATE TABLE IF NOT EXISTS accounts_removed (
    id TEXT PRIMARY KEY,
    key TEXT NOT NULL,
    removed REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS accounts_removed_key ON accounts_removed (key);

-- Logins that have not ended: a token is good while its session is here.
CREATE TABLE IF NOT EXISTS accounts_sessions (
    id TEXT PRIMARY KEY,
    user TEXT NOT NULL,
    created REAL NOT NULL,
    expires REAL NOT NULL,
    device TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS accounts_sessions_user ON accounts_sessions (user);

-- Sessions that were ended of late, for the workers that have connections of them.
CREATE TABLE IF NOT EXISTS accounts_ended (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    user TEXT NOT NULL,
    session TEXT NOT NULL,
    ended REAL NOT NULL
);

-- Attempts that are counted until they are forgotten: guesses at passwords, and sign-ups.
CREATE TABLE IF NOT EXISTS accounts_attempts (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL,
    at REAL NOT NULL,
    forgotten REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS accounts_attempts_key ON accounts_attempts (key, at);
CREATE INDEX IF NOT EXISTS accounts_attempts_forgotten ON accounts_attempts (forgotten);

-- Rooms; `owner` is the id of the user that made it, '' for nobody, and `used` when it was joined last.
CREATE TABLE IF NOT EXISTS accounts_rooms (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    created REAL NOT NULL,
    owner TEXT NOT NULL DEFAULT '',
    used REAL NOT NULL DEFAULT 0
);
