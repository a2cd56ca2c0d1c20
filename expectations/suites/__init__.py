"""One module per gated table: `COLUMNS` it reads and `build()` returning its suite.

Belongs here: fitness (ranges, proportions, coverage, plausibility, collapse). Does not belong here: keys, nullability,
relationships, accepted values and logic, which dbt tests and contracts judge; no check twice.
"""
