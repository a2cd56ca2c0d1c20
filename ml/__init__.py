"""The recommender as a pure library: arrays in, arrays out.

Belongs here: data as arrays, towers, training, judging, encoding, artifacts. Does not belong here: databases,
orchestration, environment variables.
"""
