-- name: enroll
INSERT INTO nodes (name, token) VALUES (?, ?)
-- name: check_shape
SELECT members.announcement_format, departures.announcement_format FROM members, departures LIMIT 0
-- name: is_enrolled
SELECT count(*) FROM nodes WHERE id = ? AND token = ? AND dead = 0
-- name: touch
UPDATE nodes SET counter = counter + 1 WHERE id = ? AND token = ? AND dead = 0
-- name: nodes
SELECT id, token, counter, dead FROM nodes
-- name: declare_dead
UPDATE nodes SET dead = dead | 1 WHERE id = ? AND (counter = ? OR dead & 1)
-- name: close
UPDATE nodes SET dead = dead | 2 WHERE id = ? AND token = ?
-- name: enroll_closed
INSERT INTO nodes (name, token, dead) VALUES (?, ?, 2)
-- name: touch_closed
UPDATE nodes SET counter = counter + 1 WHERE id = ? AND token = ?
-- name: set_aside
UPDATE members SET node = ? WHERE channel = ? AND connection = ?
-- name: remove_empty_nodes
DELETE FROM nodes WHERE dead AND NOT EXISTS (SELECT 1 FROM members WHERE node = nodes.id)
-- name: count_others
SELECT count(*) FROM members WHERE channel = ? AND user = ? AND connection <> ?
-- name: join
INSERT INTO members (channel, connection, user, info, node, announcement, announcement_format) VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (channel, connection) DO UPDATE SET
    user = excluded.user, info = excluded.info, node = excluded.node,
    announcement = excluded.announcement, announcement_format = excluded.announcement_format
-- name: replace_closed
DELETE FROM members
WHERE channel = ? AND user = ? AND connection <> ? AND node IN (SELECT id FROM nodes WHERE dead >= 2)
-- name: take_place
DELETE FROM members WHERE seq = (
    SELECT seq FROM members
    WHERE channel = ? AND user = ? AND connection <> ? AND node IN (SELECT value FROM json_each(?))
    ORDER BY seq LIMIT 1
)
-- name: user_of
SELECT user FROM members WHERE channel = ? AND connection = ?
-- name: leave
DELETE FROM members WHERE channel = ? AND connection = ?
-- name: members
SELECT connection, user, info FROM members
WHERE channel = ? AND node NOT IN (SELECT id FROM nodes WHERE dead >= 2) ORDER BY seq
-- name: count
SELECT count(*) FROM members WHERE channel = ? AND node NOT IN (SELECT id FROM nodes WHERE dead >= 2)
-- name: count_user
SELECT count(*) FROM members WHERE channel = ? AND user = ? AND node NOT IN (SELECT id FROM nodes WHERE dead >= 2)
-- name: remove_superseded
DELETE FROM members WHERE node IN (SELECT value FROM json_each(?1)) AND EXISTS (
    SELECT 1 FROM members AS other
    WHERE other.channel = members.channel AND other.user = members.user
    AND other.node NOT IN (SELECT value FROM json_each(?1))
)
-- name: departed
SELECT DISTINCT channel, user FROM members WHERE node IN (SELECT value FROM json_each(?)) LIMIT ?
-- name: announcement
SELECT announcement, announcement_format FROM members
WHERE channel = ? AND user = ? AND announcement_format IS NOT NULL ORDER BY seq DESC LIMIT 1
-- name: remove_user
DELETE FROM members WHERE channel = ? AND user = ?
-- name: depart
INSERT INTO departures (token, channel, user, announcement, announcement_format, claims) VALUES (?, ?, ?, ?, ?, 1)
-- name: claims
SELECT token, claims FROM departures
-- name: claim_again
UPDATE departures SET claims = claims + 1 WHERE token = ? AND claims = ?
RETURNING channel, user, announcement, announcement_format
-- name: forget
DELETE FROM departures WHERE token = ?
