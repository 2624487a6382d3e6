-- What happens inside the server; made again by every migration. Times are the server's, in seconds since 1970.
-- FROM CURRENT is a path that ends with pg_temp (pin_path): what runs as the owner uses nobody's temporary tables.

CREATE OR REPLACE FUNCTION tidewire_now() RETURNS double precision
LANGUAGE sql VOLATILE AS $$ SELECT extract(epoch FROM clock_timestamp())::double precision $$;

CREATE OR REPLACE FUNCTION tidewire_new_era() RETURNS text
LANGUAGE sql VOLATILE AS $$ SELECT left(md5(gen_random_uuid()::text), 8) $$;

-- Names the data of this server: a restored backup, a promoted standby, a copied database and counters that were made again
-- each have another name.
CREATE OR REPLACE FUNCTION tidewire_identity() RETURNS text
LANGUAGE sql VOLATILE AS $$
    SELECT concat_ws('/',
        (SELECT system_identifier FROM pg_control_system()),
        left(pg_walfile_name(pg_current_wal_lsn()), 8),
        (SELECT oid FROM pg_database WHERE datname = current_database()),
        'tidewire_channels'::regclass::oid)
$$;

-- Begin a session: returns the era, a new one when the server's data is not what it was before, and what names that data.
-- Any restart of a server that may forget what it has committed is another name. `seen` is a place in the log of
-- `seen_identity` that a node knows to have been flushed: where the same data has less, it is an older copy.
DROP FUNCTION IF EXISTS tidewire_enter(pg_lsn);
CREATE OR REPLACE FUNCTION tidewire_enter(seen pg_lsn, seen_identity text, OUT era text, OUT identity text)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    store    tidewire_store;
    found_id text;
    is_older boolean;
BEGIN
    IF pg_is_in_recovery() THEN
        RAISE read_only_sql_transaction USING MESSAGE = 'this server is a standby';
    END IF;
    found_id := concat_ws('/', tidewire_identity(), CASE
        WHEN current_setting('fsync') <> 'on' OR current_setting('synchronous_commit') = 'off'
        THEN pg_postmaster_start_time() END);
    is_older := seen IS NOT NULL AND seen_identity = found_id AND seen > pg_current_wal_flush_lsn();
    SELECT * INTO STRICT store FROM tidewire_store;
    IF store.identity <> found_id OR is_older THEN
        SELECT * INTO STRICT store FROM tidewire_store FOR UPDATE;
        IF store.identity <> found_id OR (is_older AND seen > pg_current_wal_flush_lsn()) THEN
            UPDATE tidewire_store AS s SET identity = found_id, era = tidewire_new_era() RETURNING s.era INTO store.era;
        END IF;
    END IF;
    era := store.era;
    identity := found_id;
END $$;

-- Forget channels whose counter does not belong to their publications, because an operator has changed one or the other, and
-- let ids go on where rows have come to: a sequence that was reset gives those again that are in use.
CREATE OR REPLACE FUNCTION tidewire_mend() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    wrong bigint[] := ARRAY(
        SELECT c.id FROM tidewire_channels AS c WHERE c.top NOT BETWEEN 0 AND 9007199254740991
        OR c.id NOT BETWEEN 1 AND 1::bigint << 62
        OR EXISTS (SELECT FROM tidewire_publications AS p WHERE p.channel = c.id AND p."offset" > c.top)
    );
BEGIN
    IF wrong <> '{}' THEN
        DELETE FROM tidewire_channels WHERE id = ANY (wrong);
    END IF;
    PERFORM setval(s.name, greatest(s.used, CASE WHEN last BETWEEN 1 AND 1::bigint << 62 THEN last END, 1)) FROM (
        SELECT pg_get_serial_sequence('tidewire_channels', 'id')::regclass, (SELECT max(id) FROM tidewire_channels)
        UNION ALL
        SELECT pg_get_serial_sequence('tidewire_members', 'seq')::regclass,
            (SELECT max(seq) FROM tidewire_members WHERE seq <= 1::bigint << 62)
        UNION ALL
        SELECT pg_get_serial_sequence('tidewire_outbox', 'id')::regclass,
            (SELECT max(id) FROM tidewire_outbox WHERE id <= 1::bigint << 62)
    ) AS s (name, used), pg_sequence_last_value(s.name) AS last;
    UPDATE tidewire_members SET seq = DEFAULT WHERE seq NOT BETWEEN 1 AND 1::bigint << 62;
    UPDATE tidewire_outbox SET id = DEFAULT WHERE id NOT BETWEEN 1 AND 1::bigint << 62;
END $$;

-- An operator removes or changes counters, publications or members: all subscribers are told by a new era, and nodes join their
-- members again. What tidewire itself removes (tidewire_trim) loses nothing.
CREATE OR REPLACE FUNCTION tidewire_lose() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_TABLE_NAME = 'tidewire_members' THEN
        DELETE FROM tidewire_nodes;
    ELSIF current_setting('tidewire.trimming', true) IS DISTINCT FROM 'on' THEN
        UPDATE tidewire_store SET era = tidewire_new_era();
        PERFORM pg_notify('tidewire', 'look');
        IF TG_OP = 'UPDATE' THEN
            PERFORM tidewire_mend();
        END IF;
        -- who repeats a publish that is gone publishes it
        DELETE FROM tidewire_keys AS k WHERE NOT EXISTS (
            SELECT FROM tidewire_publications AS p WHERE p.channel = k.channel AND p."offset" = k."offset"
        );
        IF TG_TABLE_NAME = 'tidewire_channels' THEN  -- a new counter may get an old one's id
            PERFORM set_config('tidewire.trimming', 'on', true);
            DELETE FROM tidewire_publications AS p WHERE NOT EXISTS (
                SELECT FROM tidewire_channels AS c WHERE c.id = p.channel
            );
            DELETE FROM tidewire_keys AS k WHERE NOT EXISTS (SELECT FROM tidewire_channels AS c WHERE c.id = k.channel);
            PERFORM set_config('tidewire.trimming', 'off', true);
        END IF;
    END IF;
    RETURN NULL;
END $$;
-- A row of a backup that is put back is no longer what the counters beside it belong to.
CREATE OR REPLACE FUNCTION tidewire_restore() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.era := left(md5(gen_random_uuid()::text), 8);
    RETURN NEW;
END $$;
-- Nobody else makes a trigger of it.
REVOKE EXECUTE ON FUNCTION tidewire_lose() FROM PUBLIC;
DROP TRIGGER IF EXISTS tidewire_restore ON tidewire_store;
CREATE TRIGGER tidewire_restore BEFORE INSERT ON tidewire_store FOR EACH ROW EXECUTE FUNCTION tidewire_restore();
DROP TRIGGER IF EXISTS tidewire_lose ON tidewire_channels;
CREATE TRIGGER tidewire_lose AFTER DELETE OR TRUNCATE ON tidewire_channels
FOR EACH STATEMENT EXECUTE FUNCTION tidewire_lose();
DROP TRIGGER IF EXISTS tidewire_lose ON tidewire_publications;
CREATE TRIGGER tidewire_lose AFTER DELETE OR TRUNCATE ON tidewire_publications
FOR EACH STATEMENT EXECUTE FUNCTION tidewire_lose();
DROP TRIGGER IF EXISTS tidewire_lose ON tidewire_members;
CREATE TRIGGER tidewire_lose AFTER TRUNCATE ON tidewire_members FOR EACH STATEMENT EXECUTE FUNCTION tidewire_lose();
-- tidewire itself changes neither names nor publications.
DROP TRIGGER IF EXISTS tidewire_change ON tidewire_channels;
CREATE TRIGGER tidewire_change AFTER UPDATE OF id, name ON tidewire_channels
FOR EACH STATEMENT EXECUTE FUNCTION tidewire_lose();
DROP TRIGGER IF EXISTS tidewire_change ON tidewire_publications;
CREATE TRIGGER tidewire_change AFTER UPDATE ON tidewire_publications
FOR EACH STATEMENT EXECUTE FUNCTION tidewire_lose();

-- Those of a session that replicates or restores fire, too.
ALTER TABLE tidewire_store ENABLE ALWAYS TRIGGER tidewire_restore;
ALTER TABLE tidewire_channels ENABLE ALWAYS TRIGGER tidewire_lose, ENABLE ALWAYS TRIGGER tidewire_change;
ALTER TABLE tidewire_publications ENABLE ALWAYS TRIGGER tidewire_lose, ENABLE ALWAYS TRIGGER tidewire_change;
ALTER TABLE tidewire_members ENABLE ALWAYS TRIGGER tidewire_lose;

-- What tidewire_keep does, for one channel and without keys, in half the time; the offsets come after `base`.
CREATE OR REPLACE FUNCTION tidewire_append(
    of_name text, size bigint, age double precision, formats smallint[], payloads bytea[], metas bytea[],
    OUT base bigint, OUT moment double precision, OUT era text
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    of_channel bigint;
BEGIN
    LOOP
        UPDATE tidewire_channels AS c SET top = c.top + cardinality(payloads),
            keep_size = coalesce(size, c.keep_size), keep_age = coalesce(age, c.keep_age)
        WHERE c.name = of_name
        RETURNING c.id, c.top - cardinality(payloads), (SELECT s.era FROM tidewire_store AS s)
        INTO of_channel, base, era;
        EXIT WHEN FOUND;
        INSERT INTO tidewire_channels (name, keep_size, keep_age)
        VALUES (of_name, coalesce(size, 100), coalesce(age, 86400)) ON CONFLICT (name) DO NOTHING;
    END LOOP;
    IF era IS NULL THEN
        RAISE no_data_found USING MESSAGE = 'tidewire_store is empty';
    ELSIF base < 0 OR base > 9007199254740991 THEN
        RAISE numeric_value_out_of_range USING MESSAGE = 'the counter of a channel was changed';
    END IF;
    moment := tidewire_now();
    INSERT INTO tidewire_publications (channel, "offset", time, format, data, meta)
    SELECT of_channel, base + i.number, moment, i.format, i.data, coalesce(i.meta, '')
    FROM unnest(formats, payloads, metas) WITH ORDINALITY AS i (format, data, meta, number);
END $$;

-- Keep publications, each in the channel names[at], in their order; a known key is not kept again. Arrays of what none
-- of them has (keys, metas) may be empty. `bases` are the tops before. The counters are locked in one order everywhere,
-- after new ones were made in one order.
CREATE OR REPLACE FUNCTION tidewire_keep(
    names text[], sizes bigint[], ages double precision[],
    ats integer[], keys text[], key_ages double precision[], formats smallint[], payloads bytea[], metas bytea[],
    OUT offsets bigint[], OUT bases bigint[], OUT moment double precision, OUT era text
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    ids  bigint[];
    base bigint;
BEGIN
    -- Before anything is locked: who waits here for another's new counter holds none that this other one may want.
    INSERT INTO tidewire_channels (name, keep_size, keep_age)
    SELECT n.name, coalesce(n.size, 100), coalesce(n.age, 86400) FROM unnest(names, sizes, ages) AS n (name, size, age)
    WHERE NOT EXISTS (SELECT FROM tidewire_channels AS c WHERE c.name = n.name)
    ORDER BY n.name COLLATE "C" ON CONFLICT (name) DO NOTHING;
    SELECT array_agg(l.id ORDER BY l.number), array_agg(l.top ORDER BY l.number) INTO ids, bases FROM (
        SELECT c.id, c.top, n.number FROM unnest(names) WITH ORDINALITY AS n (name, number)
        JOIN tidewire_channels AS c ON c.name = n.name ORDER BY c.id FOR UPDATE OF c
    ) AS l;
    FOREACH base IN ARRAY bases LOOP
        IF base < 0 OR base > 9007199254740991 THEN
            RAISE numeric_value_out_of_range USING MESSAGE = 'the counter of a channel was changed';
        END IF;
    END LOOP;
    moment := tidewire_now();
    SELECT s.era INTO STRICT era FROM tidewire_store AS s;
    WITH items AS (
        SELECT i.at, i.key, i.key_age, i.format, i.data, coalesce(i.meta, '') AS meta, i.number, k."offset" AS known
        FROM unnest(ats, keys, key_ages, formats, payloads, metas)
            WITH ORDINALITY AS i (at, key, key_age, format, data, meta, number)
        LEFT JOIN tidewire_keys AS k
            ON i.key IS NOT NULL AND k.channel = ids[i.at] AND k.key = i.key AND k.expires > moment
    ), numbered AS (
        SELECT items.*, coalesce(
            known, bases[at] + row_number() OVER (PARTITION BY at, known IS NULL ORDER BY number)
        ) AS "offset" FROM items
    ), kept AS (
        INSERT INTO tidewire_publications (channel, "offset", time, format, data, meta)
        SELECT ids[at], "offset", moment, format, data, meta FROM numbered WHERE known IS NULL
    ), keyed AS (
        INSERT INTO tidewire_keys (channel, key, "offset", expires)
        SELECT ids[at], key, "offset", moment + key_age FROM numbered WHERE known IS NULL AND key IS NOT NULL
        ON CONFLICT (channel, key) DO UPDATE SET "offset" = excluded."offset", expires = excluded.expires
    ), counted AS (
        UPDATE tidewire_channels AS c SET top = n.top,
            keep_size = coalesce(sizes[n.at], c.keep_size), keep_age = coalesce(ages[n.at], c.keep_age)
        FROM (SELECT at, max("offset") AS top FROM numbered WHERE known IS NULL GROUP BY at) AS n
        WHERE c.id = ids[n.at]
    )
    SELECT array_agg("offset" ORDER BY number) INTO offsets FROM numbered;
END $$;

-- Publish inside the caller's transaction: seen by everyone after its commit, by no one after its rollback. No counter is
-- touched, so a transaction that stays open holds up nobody.
CREATE OR REPLACE FUNCTION tidewire_publish_bytes(
    channel text, format smallint, data bytea, key text DEFAULT NULL, key_age double precision DEFAULT 300,
    meta bytea DEFAULT ''
) RETURNS void LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO tidewire_outbox (channel, format, data, key, key_age, meta)
    VALUES (channel, format, data, nullif(key, ''), key_age, meta);
    PERFORM pg_notify('tidewire', 'outbox');
END $$;

CREATE OR REPLACE FUNCTION tidewire_publish(channel text, data jsonb) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF channel IS NULL OR data IS NULL THEN
        RAISE null_value_not_allowed USING MESSAGE = 'tidewire_publish needs a channel and data; JSON null is ''null''::jsonb';
    END IF;
    IF channel LIKE '$%' THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('channel %L belongs to the server; names that begin with $ are reserved', channel);
    END IF;
    PERFORM tidewire_publish_bytes(channel, 2::smallint, convert_to(data::text, 'UTF8'));
END $$;

-- Number the rows of a transaction anew at its commit, if others took numbers since its first: ids are in the order of
-- commits, wherever that can be told. `tidewire.kept` is what the transaction found: no others up to this number, or (-1)
-- others, and then all rows that come are numbered anew, in their order. Rows of savepoints count as others'.
CREATE OR REPLACE FUNCTION tidewire_commit() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    kept bigint := coalesce(nullif(current_setting('tidewire.kept', true), '')::bigint, 0);
BEGIN
    IF kept BETWEEN 0 AND NEW.id - 1 THEN
        kept := pg_sequence_last_value(pg_get_serial_sequence('tidewire_outbox', 'id')::regclass);
        IF kept > NEW.id AND kept >= NEW.id + (
            SELECT count(*) FROM tidewire_outbox AS o
            WHERE o.id BETWEEN NEW.id AND kept AND o.xmin = pg_current_xact_id()::xid
        ) THEN
            kept := -1;
        END IF;
        PERFORM set_config('tidewire.kept', kept::text, true);
    END IF;
    IF kept < 0 THEN
        UPDATE tidewire_outbox SET id = DEFAULT WHERE id = NEW.id;
    END IF;
    RETURN NULL;
END $$;
REVOKE EXECUTE ON FUNCTION tidewire_commit() FROM PUBLIC;
DROP TRIGGER IF EXISTS tidewire_commit ON tidewire_outbox;
CREATE CONSTRAINT TRIGGER tidewire_commit AFTER INSERT ON tidewire_outbox
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION tidewire_commit();
ALTER TABLE tidewire_outbox ENABLE ALWAYS TRIGGER tidewire_commit;

-- Move the committed rows of the transaction table into the channels, in the order of ids, one mover at a time; NULL:
-- another one is at it. A later commit is moved later. Returns what the channels keep, too.
CREATE OR REPLACE FUNCTION tidewire_move(
    maximum integer, OUT moved integer, OUT names text[], OUT tops bigint[], OUT sizes bigint[], OUT ages double precision[]
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    taken tidewire_outbox[];
BEGIN
    IF NOT pg_try_advisory_xact_lock('tidewire_outbox'::regclass::integer, 1) THEN
        RETURN;
    END IF;
    SELECT coalesce(array_agg(o ORDER BY o.id), '{}') INTO taken FROM (
        SELECT * FROM tidewire_outbox ORDER BY id LIMIT maximum
    ) AS o;
    moved := cardinality(taken);
    IF moved = 0 THEN
        RETURN;
    END IF;
    names := ARRAY(SELECT DISTINCT t.channel FROM unnest(taken) AS t ORDER BY 1);
    -- of one key only the first is kept
    PERFORM tidewire_keep(
        names, array_fill(NULL::bigint, ARRAY[cardinality(names)]),
        array_fill(NULL::double precision, ARRAY[cardinality(names)]),
        array_agg(array_position(names, f.channel) ORDER BY f.id), array_agg(f.key ORDER BY f.id),
        array_agg(f.key_age ORDER BY f.id), array_agg(f.format ORDER BY f.id), array_agg(f.data ORDER BY f.id),
        array_agg(f.meta ORDER BY f.id)
    ) FROM (
        SELECT DISTINCT ON (t.channel, t.key, CASE WHEN t.key IS NULL THEN t.id END) t.* FROM unnest(taken) AS t
        ORDER BY t.channel, t.key, CASE WHEN t.key IS NULL THEN t.id END, t.id
    ) AS f;
    SELECT array_agg(c.top ORDER BY n.number), array_agg(c.keep_size ORDER BY n.number), array_agg(c.keep_age ORDER BY n.number)
    INTO tops, sizes, ages
    FROM unnest(names) WITH ORDINALITY AS n (name, number) JOIN tidewire_channels AS c ON c.name = n.name;
    DELETE FROM tidewire_outbox WHERE id IN (SELECT t.id FROM unnest(taken) AS t);
END $$;

-- Remove what no reader is shown any more from some channels after `reached`, one trimmer at a time: nothing younger than
-- `seconds`, but for what was removed on request. Returns where it came to (NULL: only keys were left to remove) and how
-- much it removed, at most `maximum`; NULL for both: another one is at it.
CREATE OR REPLACE FUNCTION tidewire_trim(
    after bigint, channels integer, maximum integer, seconds double precision, OUT reached bigint, OUT removed integer
) LANGUAGE plpgsql AS $$
DECLARE
    now double precision := tidewire_now();
BEGIN
    IF NOT pg_try_advisory_xact_lock('tidewire_outbox'::regclass::integer, 2) THEN
        RETURN;
    END IF;
    PERFORM set_config('tidewire.trimming', 'on', true);
    WITH looked AS (
        SELECT id, top, floor, keep_size, keep_age FROM tidewire_channels WHERE id > after ORDER BY id LIMIT channels
    ), oldest AS (
        SELECT p.channel, p."offset", s.id FROM looked AS s CROSS JOIN LATERAL (
            SELECT f.channel, f."offset", f.time FROM tidewire_publications AS f
            WHERE f.channel = s.id ORDER BY f."offset" LIMIT maximum
        ) AS p
        WHERE p."offset" <= s.floor
            OR (p.time < now - seconds AND (p."offset" <= s.top - s.keep_size OR p.time < now - s.keep_age))
        LIMIT maximum
    ), gone AS (
        DELETE FROM tidewire_publications AS p USING oldest AS o
        WHERE p.channel = o.channel AND p."offset" = o."offset" RETURNING 1
    )
    SELECT (SELECT max(id) FROM looked), (SELECT count(*) FROM gone) INTO reached, removed;
    IF reached IS NULL THEN
        DELETE FROM tidewire_keys WHERE (channel, key) IN (
            SELECT channel, key FROM tidewire_keys WHERE expires < now ORDER BY expires LIMIT maximum
        );
        GET DIAGNOSTICS removed = ROW_COUNT;
    END IF;
END $$;

-- Presence. A claim excludes all joins and leaves; those of one user in one channel exclude each other.

CREATE OR REPLACE FUNCTION tidewire_lock_user(channel text, user_name text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared('tidewire_nodes'::regclass::integer, 1);
    PERFORM pg_advisory_xact_lock(hashtextextended(channel || E'\n' || user_name, 'tidewire_nodes'::regclass::oid::bigint));
END $$;

-- Add a member of a node; returns how many other connections the user had, and how many it has now without those of nodes
-- whose lease has ended. These stay until a claim: a node that is only late is never told, so nothing may be taken from it.
-- NULL: the node itself is not listed any more.
CREATE OR REPLACE FUNCTION tidewire_join(
    of_node bigint, of_channel text, of_connection text, of_user text, of_info bytea, of_announcement bytea,
    of_format smallint, lease double precision, OUT others integer, OUT connections integer
) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM tidewire_lock_user(of_channel, of_user);
    IF NOT EXISTS (SELECT FROM tidewire_nodes WHERE id = of_node AND NOT dead) THEN
        RETURN;
    END IF;
    SELECT count(*), 1 + count(*) FILTER (WHERE m.node = of_node OR (NOT n.dead AND n.touched >= tidewire_now() - lease))
    INTO others, connections
    FROM tidewire_members AS m LEFT JOIN tidewire_nodes AS n ON n.id = m.node
    WHERE m.channel = of_channel AND m.user_name = of_user AND m.connection <> of_connection;
    INSERT INTO tidewire_members (channel, connection, user_name, info, node, announcement, announcement_format)
    VALUES (of_channel, of_connection, of_user, of_info, of_node, of_announcement, of_format)
    ON CONFLICT (channel, connection) DO UPDATE SET
        user_name = excluded.user_name, info = excluded.info, node = excluded.node,
        announcement = excluded.announcement, announcement_format = excluded.announcement_format;
END $$;

CREATE OR REPLACE FUNCTION tidewire_leave(of_channel text, of_connection text) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    gone text;
BEGIN
    SELECT user_name INTO gone FROM tidewire_members WHERE channel = of_channel AND connection = of_connection;
    IF gone IS NULL THEN
        RETURN false;
    END IF;
    PERFORM tidewire_lock_user(of_channel, gone);
    DELETE FROM tidewire_members WHERE channel = of_channel AND connection = of_connection AND user_name = gone;
    RETURN FOUND AND NOT EXISTS (SELECT FROM tidewire_members WHERE channel = of_channel AND user_name = gone);
END $$;

-- Prolong a lease; false: the node is not listed any more. A break longer than `pause` begins its watch anew.
CREATE OR REPLACE FUNCTION tidewire_touch(of_node bigint, pause double precision) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    now double precision := tidewire_now();
BEGIN
    UPDATE tidewire_nodes SET touched = now, since = CASE WHEN now - touched > pause THEN now ELSE since END
    WHERE id = of_node AND NOT dead;
    RETURN FOUND;
END $$;

-- Claim what others left unfinished for a lease, then users whose nodes are all dead: those silent for `silence`. A node
-- that has not itself watched for that long, because the store was away from it, takes nobody for dead.
CREATE OR REPLACE FUNCTION tidewire_claim(
    of_node bigint, lease double precision, silence double precision, maximum integer
) RETURNS SETOF tidewire_departures LANGUAGE plpgsql AS $$
DECLARE
    now   double precision := tidewire_now();
    gone  bigint[];
    found integer;
BEGIN
    IF NOT EXISTS (SELECT FROM tidewire_nodes WHERE id = of_node AND NOT dead AND since < now - silence)
        OR NOT (
            EXISTS (SELECT FROM tidewire_nodes WHERE dead OR touched < now - silence)
            OR EXISTS (SELECT FROM tidewire_departures WHERE claimed < now - lease)
        )
        OR NOT pg_try_advisory_xact_lock('tidewire_nodes'::regclass::integer, 2)
    THEN
        RETURN;
    END IF;
    PERFORM pg_advisory_xact_lock('tidewire_nodes'::regclass::integer, 1);
    RETURN QUERY UPDATE tidewire_departures AS d SET claimed = now WHERE d.token IN (
        SELECT o.token FROM tidewire_departures AS o WHERE o.claimed < now - lease LIMIT maximum
    ) RETURNING d.*;
    GET DIAGNOSTICS found = ROW_COUNT;
    UPDATE tidewire_nodes SET dead = true WHERE touched < now - silence AND NOT dead;
    gone := ARRAY(SELECT id FROM tidewire_nodes WHERE dead);
    DELETE FROM tidewire_members AS m WHERE m.node = ANY (gone) AND EXISTS (
        SELECT FROM tidewire_members AS o
        WHERE o.channel = m.channel AND o.user_name = m.user_name AND NOT o.node = ANY (gone)
    );
    RETURN QUERY WITH users AS (
        SELECT DISTINCT m.channel, m.user_name FROM tidewire_members AS m WHERE m.node = ANY (gone) LIMIT maximum - found
    ), removed AS (
        DELETE FROM tidewire_members AS m USING users AS u
        WHERE m.channel = u.channel AND m.user_name = u.user_name
        RETURNING m.seq, m.channel, m.user_name, m.announcement, m.announcement_format
    )
    INSERT INTO tidewire_departures
    SELECT DISTINCT ON (r.channel, r.user_name)
        md5(gen_random_uuid()::text), r.channel, r.user_name, r.announcement, r.announcement_format, now
    FROM removed AS r ORDER BY r.channel, r.user_name, r.announcement_format IS NULL, r.seq DESC
    RETURNING *;
    DELETE FROM tidewire_nodes AS n
    WHERE n.dead AND NOT EXISTS (SELECT FROM tidewire_members AS m WHERE m.node = n.id);
END $$;
