"""The only package that knows every other one: landing, warehouse, Dagster definitions and the command line."""
