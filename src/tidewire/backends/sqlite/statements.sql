-- name: store
SELECT version, seed, clock, monotonic, wall, boot FROM tidewire_store
-- name: versions
SELECT version FROM tidewire_store
-- name: create_store
INSERT OR IGNORE INTO tidewire_store (one, version, seed, clock, monotonic, wall, boot) VALUES (1, ?, ?, ?, ?, ?, ?)
-- name: save_clock
UPDATE tidewire_store SET clock = ?, monotonic = ?, wall = ?, boot = ?
-- name: save_log
PRAGMA wal_checkpoint(TRUNCATE)
-- name: move_log
PRAGMA wal_checkpoint(PASSIVE)
-- name: has_others
SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE tbl_name NOT LIKE 'tidewire%' AND tbl_name NOT LIKE 'sqlite%')
-- name: change_seed
UPDATE tidewire_store SET seed = ?
-- name: has_orphans
SELECT EXISTS (SELECT 1 FROM tidewire_publications WHERE channel NOT IN (SELECT id FROM tidewire_channels))
-- name: set_last_id
UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = 'tidewire_publications'
-- name: reset_last_id
UPDATE sqlite_sequence SET seq = (SELECT coalesce(max(id), 0) FROM tidewire_publications) WHERE name = 'tidewire_publications'
-- name: begin_epochs
UPDATE tidewire_channels SET epoch = derived_epoch(?, name), top = max(top, coalesce(
    (SELECT max("offset") FROM tidewire_publications WHERE channel = tidewire_channels.id), 0
))
-- name: last_id
SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'tidewire_publications'), 0)
-- name: channel_by_name
SELECT id, name, epoch, top FROM tidewire_channels WHERE name = ?
-- name: channel_by_id
SELECT id, name, epoch, top FROM tidewire_channels WHERE id = ?
-- name: create_channel
INSERT INTO tidewire_channels (name, epoch, top, keep_size, keep_age) VALUES (?, ?, 0, ?, ?)
-- name: update_channel
UPDATE tidewire_channels SET top = ?, keep_size = coalesce(?, keep_size), keep_age = coalesce(?, keep_age)
WHERE id = ? AND name = ? AND epoch = ? AND top = ?
-- name: remove_history
UPDATE tidewire_channels SET floor = top WHERE name = ?
-- name: newer
SELECT id, channel, "offset", time, format, data, meta FROM tidewire_publications WHERE id > ? ORDER BY id LIMIT ?
-- name: keep
INSERT INTO tidewire_publications (channel, "offset", time, kept, format, data, meta) VALUES (?, ?, ?, ?, ?, ?, ?)
-- name: find_key
SELECT "offset" FROM tidewire_keys WHERE channel = ? AND key = ? AND expires > ?
-- name: keep_key
INSERT OR REPLACE INTO tidewire_keys (channel, key, "offset", expires) VALUES (?, ?, ?, ?)
-- name: positions
SELECT name, epoch, top FROM tidewire_channels WHERE name IN (SELECT value FROM json_each(?))
-- name: history_channel
SELECT id, epoch, top, floor FROM tidewire_channels WHERE name = ?
-- name: first_shown
SELECT "offset" FROM tidewire_publications
WHERE channel = :channel AND "offset" > :lowest AND kept >= :oldest ORDER BY "offset" LIMIT 1
-- name: forward
SELECT "offset", time, format, data, meta FROM tidewire_publications
WHERE channel = ? AND "offset" >= ? AND "offset" < ? ORDER BY "offset" LIMIT ?
-- name: backward
SELECT "offset", time, format, data, meta FROM tidewire_publications
WHERE channel = ? AND "offset" >= ? AND "offset" < ? ORDER BY "offset" DESC LIMIT ?
-- name: next_stored
SELECT id, top, floor, keep_size, keep_age,
    (SELECT min("offset") FROM tidewire_publications WHERE channel = tidewire_channels.id)
FROM tidewire_channels WHERE id = (SELECT min(channel) FROM tidewire_publications WHERE channel > ?)
-- name: is_trimmable
SELECT EXISTS (
    SELECT 1 FROM tidewire_publications
    WHERE channel = :channel AND "offset" = :first
    AND ("offset" <= :floor OR (kept < :young AND ("offset" <= :lowest OR kept < :oldest)))
)
-- name: trim
DELETE FROM tidewire_publications
WHERE channel = :channel AND "offset" >= :first AND "offset" < :bound
AND ("offset" <= :floor OR (kept < :young AND ("offset" <= :lowest OR kept < :oldest)))
-- name: has_expired_keys
SELECT EXISTS (SELECT 1 FROM tidewire_keys WHERE expires < ?)
-- name: trim_keys
DELETE FROM tidewire_keys WHERE (channel, key) IN (
    SELECT channel, key FROM tidewire_keys WHERE expires < ? ORDER BY expires LIMIT ?
)
-- name: channel_bytes
SELECT coalesce(sum(length(data) + length(meta)), 0) FROM tidewire_publications
WHERE channel = (SELECT id FROM tidewire_channels WHERE name = :name)
AND "offset" > (SELECT floor FROM tidewire_channels WHERE name = :name)
-- name: sizes_of_oldest
SELECT "offset", length(data) + length(meta) FROM tidewire_publications
WHERE channel = (SELECT id FROM tidewire_channels WHERE name = :name)
AND "offset" > (SELECT floor FROM tidewire_channels WHERE name = :name)
ORDER BY "offset"
-- name: hide_by_name
UPDATE tidewire_channels SET floor = max(floor, ?) WHERE name = ?
-- name: store_bytes
SELECT (page_count - freelist_count) * page_size FROM pragma_page_count, pragma_freelist_count, pragma_page_size
-- name: oldest
SELECT max(p."offset"), p.channel FROM (
    SELECT channel, "offset", sum(size) OVER (ORDER BY id) - size AS before FROM (
        SELECT id, channel, "offset", length(data) + length(meta) AS size
        FROM tidewire_publications ORDER BY id LIMIT :most
    )
) AS p WHERE p.before < :excess GROUP BY p.channel
-- name: hide_by_id
UPDATE tidewire_channels SET floor = max(floor, ?) WHERE id = ?
-- name: forget_key
DELETE FROM tidewire_keys WHERE channel = (SELECT id FROM tidewire_channels WHERE name = ?) AND key = ?
-- name: transaction_create
CREATE TABLE IF NOT EXISTS tidewire_outbox (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    token     TEXT    NOT NULL UNIQUE,
    channel   TEXT    NOT NULL,
    format    INTEGER NOT NULL,
    data      BLOB    NOT NULL,
    key       TEXT    NOT NULL,
    key_age   REAL    NOT NULL,
    meta      BLOB    NOT NULL,
    keep_size INTEGER,
    keep_age  REAL
)
-- name: transaction_insert
INSERT INTO tidewire_outbox (token, channel, format, data, key, key_age, meta, keep_size, keep_age)
VALUES (:token, :channel, :format, :data, :key, :key_age, :meta, :keep_size, :keep_age)
-- name: transaction_rows
SELECT id, token, channel, format, data, key, key_age, meta, keep_size, keep_age FROM tidewire_outbox
WHERE id IN (  -- by the index of the tokens: rows of a hub that is gone cost nothing
    SELECT o.id FROM json_each(:names) AS n CROSS JOIN tidewire_outbox AS o
    WHERE o.token >= n.value || ':' AND o.token < n.value || ';'
    UNION ALL SELECT id FROM tidewire_outbox WHERE :is_first AND token NOT LIKE '%:%'  -- of an earlier version
    ORDER BY 1 LIMIT :count
) ORDER BY id
-- name: transaction_remove
DELETE FROM tidewire_outbox WHERE id = ?
