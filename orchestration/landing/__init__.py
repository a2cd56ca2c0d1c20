"""The door through which data enters: the DMM client, file loaders and the emulated API.

Belongs here: fetching, masking, validating and landing into `raw_dmm` and `raw_app`. Does not belong here: typing
and joining what was landed (dbt does that), and anything that knows an orchestrator.
"""
