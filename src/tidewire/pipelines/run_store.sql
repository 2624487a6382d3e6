-- name: schema
CREATE TABLE IF NOT EXISTS runs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    pipeline TEXT NOT NULL,
    sample TEXT NOT NULL,
    user TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    key TEXT NOT NULL,
    definition BLOB NOT NULL,
    paths BLOB NOT NULL,
    status TEXT NOT NULL,
    -- its place in the queue; grows with each time that it is queued
    turn INTEGER NOT NULL,
    -- the process that runs it, or has to tell its viewers something yet
    owner TEXT NOT NULL,
    cancel INTEGER NOT NULL DEFAULT 0,
    state BLOB NOT NULL,
    view BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS runs_status ON runs (status, turn);
CREATE INDEX IF NOT EXISTS runs_owner ON runs (owner) WHERE owner <> '';
CREATE INDEX IF NOT EXISTS runs_sample ON runs (pipeline, sample, number);
CREATE TABLE IF NOT EXISTS processes (
    run TEXT NOT NULL,
    step TEXT NOT NULL,
    identity TEXT NOT NULL,
    PRIMARY KEY (run, step, identity)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS progress_reports (
    run TEXT NOT NULL,
    step TEXT NOT NULL,
    fraction REAL NOT NULL,
    message TEXT NOT NULL,
    PRIMARY KEY (run, step)
) WITHOUT ROWID;

-- name: joinable
SELECT state FROM runs
WHERE fingerprint = ? AND status IN ('queued', 'running') AND cancel = 0 ORDER BY number DESC LIMIT 1

-- name: waiting
SELECT count(*), coalesce(sum(user = ?), 0) FROM runs WHERE status = 'queued'

-- name: next_turn
SELECT coalesce(max(turn), 0) + 1 FROM runs

-- name: insert
INSERT INTO runs (id, pipeline, sample, user, fingerprint, key, definition, paths, status, turn, owner, state, view)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'queued', ?, ?, ?, ?)

-- name: get
SELECT state, view, definition, paths, key, owner, status, cancel FROM runs WHERE id = ?

-- name: list
SELECT state FROM runs
WHERE (:pipeline = '' OR pipeline = :pipeline)
  AND (:sample = '' OR sample = :sample)
  AND (:status = '' OR status = :status)
  AND (:user = '' OR user = :user)
  AND (:before = '' OR number < (SELECT number FROM runs WHERE id = :before))
ORDER BY number DESC LIMIT :limit

-- name: search
SELECT state, count(*) OVER () FROM runs
WHERE :search = '' OR instr(lower(id || ' ' || pipeline || ' ' || sample || ' ' || user), :search)
ORDER BY number DESC LIMIT :limit OFFSET :offset

-- name: save
UPDATE runs SET state = ?, view = ?, status = ? WHERE id = ?

-- name: owned
SELECT id, status, cancel, turn FROM runs WHERE owner = ?

-- name: queue
SELECT id, user FROM runs WHERE status = 'queued' ORDER BY turn

-- name: running
SELECT user, count(*) FROM runs WHERE status = 'running' GROUP BY user

-- name: begin
UPDATE runs SET status = 'running' WHERE id = ? AND owner = ? AND status IN ('queued', 'running') AND cancel = 0

-- name: release
UPDATE runs SET owner = '', cancel = 0 WHERE id = ? AND owner = ?

-- name: cancel
UPDATE runs SET cancel = 1 WHERE id = ? AND status IN ('queued', 'running')

-- name: resume
UPDATE runs SET owner = ?, turn = ?, status = 'queued', cancel = 0
WHERE id = ? AND owner = '' AND status IN ('failed', 'cancelled', 'interrupted')

-- name: owners
SELECT DISTINCT owner FROM runs WHERE owner <> ''

-- name: adopt
UPDATE runs SET owner = ? WHERE owner = ?

-- name: set_process
INSERT OR IGNORE INTO processes (run, step, identity) VALUES (?, ?, ?)

-- name: clear_processes
DELETE FROM processes WHERE run = ? AND step = ?

-- name: processes
SELECT identity FROM processes WHERE run = ?

-- name: clear_all_processes
DELETE FROM processes WHERE run = ?

-- name: beyond
-- the oldest runs of the users who have the most: the runs of one user never push those of others out
SELECT id, user FROM (
    SELECT id, user, number, row_number() OVER (PARTITION BY user ORDER BY number DESC) AS place
    FROM runs WHERE owner = '' AND status NOT IN ('queued', 'running')
) ORDER BY place, number DESC LIMIT -1 OFFSET ?

-- name: remove
DELETE FROM runs WHERE id = ? AND owner = '' AND status NOT IN ('queued', 'running')

-- name: finished
SELECT state FROM runs WHERE pipeline = ? AND status = 'finished' ORDER BY number DESC LIMIT 5

-- name: add_progress
INSERT OR REPLACE INTO progress_reports (run, step, fraction, message)
SELECT id, ?2, ?3, ?4 FROM runs WHERE id = ?1 AND status = 'running'

-- name: clear_progress
DELETE FROM progress_reports WHERE run = ?

-- name: take_progress
DELETE FROM progress_reports WHERE run IN (SELECT id FROM runs WHERE owner = ?) RETURNING run, step, fraction, message

-- name: any_progress
SELECT EXISTS (SELECT 1 FROM progress_reports)
