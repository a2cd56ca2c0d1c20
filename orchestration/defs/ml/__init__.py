"""Dagster definitions from a judged recipe to vectors that are served."""
