"""Pulling a source into the raw tables: what is due, reading it completely, lists, rankings, single items."""
