-- Once per database, by a login that may create extensions.
create extension if not exists vector;
