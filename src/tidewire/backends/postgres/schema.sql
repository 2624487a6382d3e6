-- Everything of one store; names have a prefix, because the schema may be an application's own. A table that an
-- operator has dropped is made again by this file, so all of it may run on a store that is there.

-- One row. `era` is the epoch of all channels; `identity` names the server's history that it belongs to (tidewire_enter).
CREATE TABLE IF NOT EXISTS tidewire_store (
    one      boolean PRIMARY KEY DEFAULT true CHECK (one),
    version  integer NOT NULL,
    era      text    NOT NULL,
    identity text    NOT NULL
);

-- The counter of each channel. `top` outlives the publications; what is at or below `floor` was removed on request.
CREATE TABLE IF NOT EXISTS tidewire_channels (
    id        bigint           GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name      text COLLATE "C" NOT NULL UNIQUE,
    top       bigint           NOT NULL DEFAULT 0,
    floor     bigint           NOT NULL DEFAULT 0,
    keep_size bigint           NOT NULL,
    keep_age  double precision NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE IF NOT EXISTS tidewire_publications (
    channel  bigint           NOT NULL,
    "offset" bigint           NOT NULL,
    time     double precision NOT NULL,
    format   smallint         NOT NULL,
    data     bytea            NOT NULL,
    meta     bytea            NOT NULL,
    PRIMARY KEY (channel, "offset")
);

CREATE TABLE IF NOT EXISTS tidewire_keys (
    channel  bigint           NOT NULL,
    key      text COLLATE "C" NOT NULL,
    "offset" bigint           NOT NULL,
    expires  double precision NOT NULL,
    PRIMARY KEY (channel, key)
);
CREATE INDEX IF NOT EXISTS tidewire_keys_by_expiry ON tidewire_keys (expires);

-- The transaction table: what applications publish inside their own transactions; a node moves it after their commit.
CREATE TABLE IF NOT EXISTS tidewire_outbox (
    id      bigint           GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    channel text COLLATE "C" NOT NULL CHECK (
        char_length(channel) BETWEEN 1 AND 255 AND channel = btrim(channel) AND channel !~ '[[:cntrl:]]'
    ),
    format  smallint         NOT NULL CHECK (format BETWEEN 0 AND 2),
    data    bytea            NOT NULL,
    key     text COLLATE "C" CHECK (char_length(key) BETWEEN 1 AND 600),
    key_age double precision NOT NULL DEFAULT 300,
    meta    bytea            NOT NULL DEFAULT ''
);

-- Presence: gone after a crash of the server, and then every node joins its members again. A node chooses its own id at
-- random: a sequence would begin again after that crash.
CREATE UNLOGGED TABLE IF NOT EXISTS tidewire_nodes (
    id      bigint           PRIMARY KEY,
    name    text             NOT NULL,
    -- When the node prolonged its lease, and since when it has done so without a break; 'infinity': it was closed, and its
    -- members are not listed.
    touched double precision NOT NULL,
    since   double precision NOT NULL,
    dead    boolean          NOT NULL DEFAULT false
) WITH (fillfactor = 50);

CREATE UNLOGGED TABLE IF NOT EXISTS tidewire_members (
    seq                 bigint           GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    channel             text COLLATE "C" NOT NULL,
    connection          text COLLATE "C" NOT NULL,
    user_name           text COLLATE "C" NOT NULL,
    info                bytea            NOT NULL,
    node                bigint           NOT NULL,
    announcement        bytea,
    announcement_format smallint,
    UNIQUE (channel, connection)
);
CREATE INDEX IF NOT EXISTS tidewire_members_by_user ON tidewire_members (channel, user_name);
CREATE INDEX IF NOT EXISTS tidewire_members_by_node ON tidewire_members (node);

-- Claimed and not yet forgotten.
CREATE UNLOGGED TABLE IF NOT EXISTS tidewire_departures (
    token               text             PRIMARY KEY,
    channel             text             NOT NULL,
    user_name           text             NOT NULL,
    announcement        bytea,
    announcement_format smallint,
    claimed             double precision NOT NULL
);

-- What the keys above are made of, for where an operator has dropped one of them.
CREATE UNIQUE INDEX IF NOT EXISTS tidewire_store_pkey ON tidewire_store (one);
CREATE UNIQUE INDEX IF NOT EXISTS tidewire_channels_pkey ON tidewire_channels (id);
CREATE UNIQUE INDEX IF NOT EXISTS tidewire_channels_name_key ON tidewire_channels (name);
CREATE UNIQUE INDEX IF NOT EXISTS tidewire_publications_pkey ON tidewire_publications (channel, "offset");
CREATE UNIQUE INDEX IF NOT EXISTS tidewire_keys_pkey ON tidewire_keys (channel, key);
CREATE UNIQUE INDEX IF NOT EXISTS tidewire_outbox_pkey ON tidewire_outbox (id);
CREATE UNIQUE INDEX IF NOT EXISTS tidewire_nodes_pkey ON tidewire_nodes (id);
CREATE UNIQUE INDEX IF NOT EXISTS tidewire_members_pkey ON tidewire_members (seq);
CREATE UNIQUE INDEX IF NOT EXISTS tidewire_members_channel_connection_key ON tidewire_members (channel, connection);
CREATE UNIQUE INDEX IF NOT EXISTS tidewire_departures_pkey ON tidewire_departures (token);
