"""Everything that touches Postgres as a server: launcher, connections, migrations, COPY and serving calls."""
