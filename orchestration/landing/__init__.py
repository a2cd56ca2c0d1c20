"""The door through which data enters.

Belongs here: fetching, masking, validating and landing into `raw_dmm` and `raw_app`. Does not belong here: typing
and joining what was landed (dbt does that), and anything that knows an orchestrator.

In the order in which an item or a row travels: `sources` answer (`emulator` plays them), `pulls` and `files` read them
completely, `items` and `app` say what each row must be and how it enters its table, `quarantine` keeps the rest and
`replay` tries it again. `legacy` turns the product's earlier database into files.
"""
