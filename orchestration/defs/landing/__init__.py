"""Dagster definitions that bring data in: the catalogue sync, and what the app writes."""
