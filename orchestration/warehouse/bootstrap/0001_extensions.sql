-- Once per database, by a login that may create extensions.
create extension if not exists vector;
-- Titles are searched by their trigrams.
create extension if not exists pg_trgm;
