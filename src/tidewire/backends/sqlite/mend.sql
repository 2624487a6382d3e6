-- After a part of the store was removed: what belongs to no channel goes, and the ids of publications go on above all that
-- other processes may have seen (the row of the sequence goes with its table).
BEGIN IMMEDIATE;
DELETE FROM tidewire_publications WHERE channel NOT IN (SELECT id FROM tidewire_channels);
DELETE FROM tidewire_keys WHERE channel NOT IN (SELECT id FROM tidewire_channels);
INSERT INTO sqlite_sequence (name, seq)
SELECT 'tidewire_publications', 0 WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'tidewire_publications');
COMMIT;
