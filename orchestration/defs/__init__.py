"""Dagster definitions, one folder per domain. The only package that imports Dagster."""
