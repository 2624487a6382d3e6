-- name: version
SELECT version FROM tidewire_store
-- name: be_patient
SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0
-- name: tables
SELECT name FROM unnest($1::text[]) WITH ORDINALITY AS t (name, number) WHERE to_regclass(name) IS NOT NULL ORDER BY number
-- name: lock_schema
SELECT pg_advisory_xact_lock(hashtext('tidewire schema'), hashtext(current_schema()))
-- name: pin_path
-- What the functions keep as theirs: somebody's temporary tables are looked at last, or they would take the place of ours.
SELECT set_config('search_path', string_agg(quote_ident(s.name), ', ' ORDER BY s.number) || ', pg_temp', true)
FROM unnest(current_schemas(false)) WITH ORDINALITY AS s (name, number) WHERE s.name !~ '^pg_' HAVING count(*) > 0
-- name: missing
WITH schemas AS MATERIALIZED (
    SELECT array_agg(n.oid) AS found FROM pg_namespace AS n WHERE n.nspname = ANY (current_schemas(false))
), tables AS MATERIALIZED (
    SELECT c.relname AS name, c.oid FROM pg_class AS c
    WHERE c.relname = ANY ($1::text[] || $4::text[]) AND c.relnamespace = ANY ((SELECT found FROM schemas)::oid[])
)
SELECT t.name FROM unnest($1::text[] || $4::text[]) AS t (name) WHERE t.name NOT IN (SELECT name FROM tables)
UNION ALL
-- one of another body, or one that looks for the tables in a schema that has another name now, or at temporary ones first
SELECT f.name || '()' FROM unnest($2::text[], $3::text[]) AS f (name, body) WHERE NOT EXISTS (
    SELECT FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
    WHERE p.proname = f.name AND p.pronamespace = ANY ((SELECT found FROM schemas)::oid[]) AND p.prosrc = f.body
    AND NOT (p.prosecdef AND p.proconfig IS NULL) AND NOT EXISTS (
        SELECT FROM unnest(p.proconfig) AS c (line) WHERE c.line LIKE 'search_path=%' AND (
            quote_ident(n.nspname) <> ALL (string_to_array(substr(c.line, 13), ', ')) OR c.line NOT LIKE '%, pg_temp'
        )
    )
)
UNION ALL
SELECT 'trigger of ' || g.of_table FROM unnest($5::text[], $6::text[]) AS g (name, of_table) WHERE NOT EXISTS (
    SELECT FROM pg_trigger AS r JOIN tables AS t ON t.oid = r.tgrelid
    WHERE r.tgname = g.name AND t.name = g.of_table AND r.tgenabled = 'A'
)
UNION
SELECT c.of_table FROM unnest($7::text[], $8::text[], $9::text[], $10::boolean[]) AS c (of_table, name, type, filled)
WHERE NOT EXISTS (
    SELECT FROM pg_attribute AS a JOIN tables AS t ON t.oid = a.attrelid
    WHERE t.name = c.of_table AND a.attname = c.name AND NOT a.attisdropped
    AND a.atttypid = c.type::regtype AND (NOT c.filled OR a.atthasdef OR a.attidentity <> '')
)
UNION ALL
SELECT 'sequence of ' || t.name FROM tables AS t JOIN pg_depend AS d ON d.refobjid = t.oid AND d.deptype = 'i'
AND d.refclassid = 'pg_class'::regclass AND d.classid = 'pg_class'::regclass
JOIN pg_sequence AS s ON s.seqrelid = d.objid
WHERE CASE WHEN has_sequence_privilege(s.seqrelid, 'USAGE') THEN pg_sequence_last_value(s.seqrelid) > 1::bigint << 62 END
UNION ALL
SELECT format('ALTER TABLE %I ALTER COLUMN %I DROP NOT NULL', t.name, a.attname) FROM tables AS t
JOIN pg_attribute AS a ON a.attrelid = t.oid
WHERE a.attnum > 0 AND a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' AND NOT a.attisdropped AND t.name = ANY ($1)
AND (t.name::text, a.attname::text) NOT IN (SELECT * FROM unnest($7::text[], $8::text[]))
-- name: grants
-- The statements that give a function its grants again; NULL: it has those of a new one.
SELECT format('REVOKE ALL ON FUNCTION %s FROM PUBLIC;', $1::text) || string_agg(format(
    'GRANT EXECUTE ON FUNCTION %s TO %s%s;', $1::text,
    CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
    CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' END
), '')
FROM pg_proc AS p CROSS JOIN LATERAL aclexplode(p.proacl) AS a WHERE p.oid = $1::text::regprocedure
-- name: new_era
UPDATE tidewire_store SET era = tidewire_new_era() WHERE era = $1 OR $1 IS NULL
-- name: mend
SELECT tidewire_mend()
-- name: create_store
INSERT INTO tidewire_store (version, era, identity) VALUES ($1, tidewire_new_era(), '')
ON CONFLICT (one) DO UPDATE SET version = $1
-- name: forget_nodes
DELETE FROM tidewire_nodes
-- name: empty
TRUNCATE tidewire_publications, tidewire_keys
-- name: enter
SELECT era, identity FROM tidewire_enter($1::text::pg_lsn, $2)
-- name: keep
SELECT * FROM tidewire_keep($1, $2, $3, $4, $5, $6, $7, $8, $9)
-- name: append
SELECT * FROM tidewire_append($1, $2, $3, $4, $5, $6)
-- name: move
SELECT m.*, w.found > w.fitting OR w.found = $1 AS has_more FROM (
    SELECT count(*) AS found, count(*) FILTER (WHERE s.before < $2) AS fitting FROM (
        SELECT sum(o.size) OVER (ORDER BY o.id) - o.size AS before
        FROM (SELECT id, length(data) + length(meta) AS size FROM tidewire_outbox ORDER BY id LIMIT $1) AS o
    ) AS s
) AS w CROSS JOIN LATERAL tidewire_move(greatest(w.fitting, 1)::integer) AS m
-- name: retain
UPDATE tidewire_channels SET keep_size = $2, keep_age = $3 WHERE name = $1
-- name: trim
SELECT * FROM tidewire_trim($1, $2, $3, $4)
-- name: publish
SELECT tidewire_publish_bytes(
    CAST(:channel AS text), CAST(:format AS smallint), CAST(:data AS bytea), CAST(:key AS text),
    CAST(:key_age AS double precision), CAST(:meta AS bytea)
)
-- name: schema
SELECT relnamespace::regnamespace::text AS name FROM pg_class WHERE oid = 'tidewire_outbox'::regclass
-- name: wake_soon
SET synchronous_commit = off
-- name: relay
SELECT pg_notify($1, payload) FROM unnest($2::text[]) AS payload
-- name: wake
SELECT pg_notify('tidewire', payload) FROM unnest($1::text[]) AS payload
-- name: pulse
SELECT pg_current_wal_flush_lsn()::text AS flushed, tidewire_identity() AS identity, EXISTS (SELECT FROM tidewire_outbox) AS has_committed
-- name: flushed
SELECT pg_current_wal_flush_lsn()::text
-- name: positions
SELECT s.era, c.name, c.top FROM tidewire_store AS s
LEFT JOIN (unnest($1::text[]) AS n (name) JOIN tidewire_channels AS c ON c.name = n.name) ON true
-- name: news
SELECT n.name, s.era, p."offset", p.time, p.format, p.data, p.meta
FROM unnest($1::text[], $2::bigint[]) WITH ORDINALITY AS n (name, after, number)
JOIN tidewire_store AS s ON true
JOIN tidewire_channels AS c ON c.name = n.name
CROSS JOIN LATERAL (
    SELECT * FROM tidewire_publications AS f WHERE f.channel = c.id AND f."offset" > n.after ORDER BY f."offset" LIMIT $3
) AS p
ORDER BY n.number, p."offset" LIMIT $3
-- name: forward
SELECT s.era, coalesce(c.top, 0) AS top, l."offset" AS first, p."offset", p.time, p.format, p.data, p.meta
FROM tidewire_store AS s
LEFT JOIN tidewire_channels AS c ON c.name = $1
LEFT JOIN LATERAL (
    SELECT f."offset" FROM tidewire_publications AS f
    WHERE f.channel = c.id AND f."offset" > greatest(c.floor, c.top - $2::bigint) AND f.time >= tidewire_now() - $3::float8
    ORDER BY f."offset" LIMIT 1
) AS l ON true
LEFT JOIN LATERAL (
    SELECT * FROM tidewire_publications AS f
    WHERE f.channel = c.id AND f."offset" >= l."offset" AND f."offset" > $4 ORDER BY f."offset" LIMIT $5
) AS p ON true
ORDER BY p."offset"
-- name: backward
SELECT s.era, coalesce(c.top, 0) AS top, l."offset" AS first, p."offset", p.time, p.format, p.data, p.meta
FROM tidewire_store AS s
LEFT JOIN tidewire_channels AS c ON c.name = $1
LEFT JOIN LATERAL (
    SELECT f."offset" FROM tidewire_publications AS f
    WHERE f.channel = c.id AND f."offset" > greatest(c.floor, c.top - $2::bigint) AND f.time >= tidewire_now() - $3::float8
    ORDER BY f."offset" LIMIT 1
) AS l ON true
LEFT JOIN LATERAL (
    SELECT * FROM tidewire_publications AS f
    WHERE f.channel = c.id AND f."offset" >= l."offset" AND f."offset" < $4 ORDER BY f."offset" DESC LIMIT $5
) AS p ON true
ORDER BY p."offset" DESC
-- name: remove_history
UPDATE tidewire_channels SET floor = top WHERE name = $1
-- name: bound
WITH of_channel AS (SELECT id, top, floor FROM tidewire_channels WHERE name = $1), sizes AS (
    SELECT p."offset", sum(octet_length(p.data) + octet_length(p.meta) + 64) OVER (ORDER BY p."offset" DESC) AS size
    FROM of_channel AS c JOIN tidewire_publications AS p ON p.channel = c.id AND p."offset" > c.floor
), oldest AS (SELECT max(s."offset") AS "offset" FROM sizes AS s, of_channel AS c WHERE s.size > $2 AND s."offset" < c.top)
UPDATE tidewire_channels AS c SET floor = greatest(c.floor, o."offset") FROM oldest AS o
WHERE c.name = $1 AND o."offset" IS NOT NULL RETURNING c.floor
-- name: store_size
SELECT pg_table_size('tidewire_publications') AS used, (pg_current_wal_insert_lsn() - '0/0')::bigint AS written,
    tidewire_now() AS now
-- name: measure
SELECT floor(64 * ln(greatest($4::float8 - p.time, 0.01)))::integer AS age, sum(p.size)::bigint AS size,
    max(ARRAY[p.channel, p."offset"]) AS last
FROM (
    SELECT f.channel, f."offset", f.time, pg_column_size(f.data) + pg_column_size(f.meta) + 64 AS size
    FROM tidewire_publications AS f WHERE (f.channel, f."offset") > ($1::bigint, $2::bigint)
    ORDER BY f.channel, f."offset" LIMIT $3
) AS p GROUP BY 1
-- name: trimming
SELECT set_config('tidewire.trimming', 'on', true)
-- name: shrink
WITH page AS MATERIALIZED (
    SELECT f.channel, f."offset", f.time FROM tidewire_publications AS f
    WHERE (f.channel, f."offset") > ($1::bigint, $2::bigint) ORDER BY f.channel, f."offset" LIMIT $3
), gone AS (
    DELETE FROM tidewire_publications AS p USING page AS g
    WHERE p.channel = g.channel AND p."offset" = g."offset" AND g.time < $4 RETURNING 1
)
SELECT (SELECT max(ARRAY[channel, "offset"]) FROM page) AS last, (SELECT count(*) FROM gone) AS removed
-- name: settings
SELECT current_setting('fsync') AS fsync, current_setting('synchronous_commit') AS synchronous_commit,
    current_setting('full_page_writes') AS full_page_writes, pg_notification_queue_usage() AS queue,
    (SELECT count(*) FROM tidewire_outbox) AS committed, current_setting('server_version') AS version,
    tidewire_now() AS now
-- name: enroll
INSERT INTO tidewire_nodes (id, name, touched, since) VALUES ($1, $2, tidewire_now(), tidewire_now())
-- name: join
SELECT j.others, j.connections - (
    SELECT count(*) FROM tidewire_members AS m JOIN tidewire_nodes AS n ON n.id = m.node
    WHERE m.channel = $2 AND m.user_name = $4 AND m.connection <> $3
    AND n.since = 'infinity' AND NOT n.dead AND n.touched >= tidewire_now() - $8::float8
) AS connections FROM tidewire_join($1, $2, $3, $4, $5, $6, $7, $8) AS j
-- name: close
UPDATE tidewire_nodes SET since = 'infinity' WHERE id = $1
-- name: set_aside
WITH aside AS (
    INSERT INTO tidewire_nodes (id, name, touched, since) VALUES ($1, $2, tidewire_now(), 'infinity')
    ON CONFLICT (id) DO UPDATE SET touched = excluded.touched
)
UPDATE tidewire_members SET node = $1 WHERE channel = $3 AND connection = $4
-- name: touch_closed
UPDATE tidewire_nodes SET touched = tidewire_now() WHERE id = $1 AND NOT dead
-- name: leave
SELECT tidewire_leave($1, $2)
-- name: touch
SELECT tidewire_touch($1, $2)
-- name: members
SELECT connection, user_name, info FROM tidewire_members
WHERE channel = $1 AND NOT node = ANY (ARRAY(SELECT id FROM tidewire_nodes WHERE since = 'infinity')) ORDER BY seq
-- name: count
SELECT count(*) FROM tidewire_members WHERE channel = $1 AND ($2::text IS NULL OR user_name = $2)
AND NOT node = ANY (ARRAY(SELECT id FROM tidewire_nodes WHERE since = 'infinity'))
-- name: claim
SELECT token, channel, user_name, announcement, announcement_format FROM tidewire_claim($1, $2, $3, $4)
-- name: forget
DELETE FROM tidewire_departures WHERE token = ANY ($1)
