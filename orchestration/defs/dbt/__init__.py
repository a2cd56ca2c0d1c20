"""Dagster definitions for the dbt project and the gates on what it builds."""
