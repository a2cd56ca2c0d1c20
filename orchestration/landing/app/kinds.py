"""What users of the app said and saw: the four kinds of rows, their rules, and the statement that lands each.

Belongs here: columns, keys and SQL of a kind. Does not belong here: files, batches, quarantine.
"""

from dataclasses import dataclass

from orchestration.landing.app.columns import (
    Column,
    boolean,
    integer,
    json_object,
    number,
    one_of,
    text,
    timestamp,
    whole_number,
)


@dataclass(frozen=True)
class Kind:
    """One kind of app rows.

    Attributes:
        name: Of the table in `raw_app`, and of the command line option.
        singular: As the quarantine names one row.
        columns: What a row holds, and its rules.
        key: What makes two rows the same row, in the order of the table's unique index.
        staging: Columns of the staging table.
        insert: Lands what is staged; of rows with one key the first counts, of users the last.
        is_append_only: Whether a row never changes once it landed.
        has_defaults: Whether the statement fills in what a row left out, so that rows have to be staged.
    """

    name: str
    singular: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    staging: str
    insert: str
    is_append_only: bool = True
    has_defaults: bool = False


_USER_ID = Column("user_id", text())
_CONTENT_ID = Column("content_id", text(r"^[a-z0-9_-]{1,64}$", lower=True))
_MODEL_RUN = Column("model_run", text(), is_required=False)
_PARAMS = Column("params", json_object, is_required=False)

USERS = Kind(
    "users",
    "user",
    (_USER_ID, Column("created_at", timestamp), Column("age_verified", boolean)),
    ("user_id",),
    "position bigint generated always as identity, user_id text, created_at timestamptz, age_verified boolean, "
    "seen_at timestamptz",
    # What the app has said since the row was seen counts more: an old row must not verify anybody's age again.
    """
    insert into raw_app.users as known (user_id, created_at, age_verified, updated_at)
    select distinct on (staged.user_id)
        staged.user_id, staged.created_at, staged.age_verified, coalesce(staged.seen_at, now())
    from pg_temp.landing_users as staged
    order by staged.user_id, staged.position desc
    on conflict (user_id) do update
    set created_at = excluded.created_at, age_verified = excluded.age_verified, updated_at = excluded.updated_at
    where
        (known.created_at, known.age_verified) is distinct from (excluded.created_at, excluded.age_verified)
        and known.updated_at <= excluded.updated_at
    """,
    is_append_only=False,
    has_defaults=True,
)

DECISIONS = Kind(
    "decisions",
    "decision",
    (
        _USER_ID,
        _CONTENT_ID,
        Column("decision", one_of("like", "nope", "skip")),
        Column("decided_at", timestamp),
        Column("surface", text(), is_required=False),
        Column("source", text(), is_required=False),
        Column("score", number(), is_required=False),
        _MODEL_RUN,
        _PARAMS,
    ),
    ("user_id", "content_id", "decided_at", "decision"),
    "user_id text, content_id text, decision text, decided_at timestamptz, surface text, source text, "
    "score double precision, model_run text, params jsonb",
    """
    insert into raw_app.decisions
        (user_id, content_id, decision, decided_at, surface, source, score, model_run, params)
    select
        staged.user_id, staged.content_id, staged.decision, staged.decided_at, staged.surface, staged.source,
        staged.score, staged.model_run, staged.params
    from pg_temp.landing_decisions as staged
    on conflict (user_id, content_id, decided_at, decision) do nothing
    """,
)

EXPOSURES = Kind(
    "exposures",
    "exposure",
    (
        _USER_ID,
        _CONTENT_ID,
        Column("exposed_at", timestamp),
        Column("surface", text()),
        Column("policy", text()),
        Column("position", integer(1)),
        Column("propensity", number(0.0, 1.0, above=True)),
        _MODEL_RUN,
        _PARAMS,
    ),
    ("user_id", "content_id", "exposed_at", "surface"),
    "user_id text, content_id text, exposed_at timestamptz, surface text, policy text, position integer, "
    "propensity double precision, model_run text, params jsonb",
    """
    insert into raw_app.exposures
        (user_id, content_id, exposed_at, surface, policy, position, propensity, model_run, params)
    select
        staged.user_id, staged.content_id, staged.exposed_at, staged.surface, staged.policy, staged.position,
        staged.propensity, staged.model_run, staged.params
    from pg_temp.landing_exposures as staged
    on conflict (user_id, content_id, exposed_at, surface) do nothing
    """,
)

EXCLUDED_TAGS = Kind(
    "excluded_tags",
    "excluded_tag",
    (_USER_ID, Column("tag_id", whole_number), Column("excluded_at", timestamp, is_required=False)),
    ("user_id", "tag_id"),
    "user_id text, tag_id bigint, excluded_at timestamptz",
    """
    insert into raw_app.excluded_tags (user_id, tag_id, excluded_at)
    select staged.user_id, staged.tag_id, coalesce(staged.excluded_at, now())
    from pg_temp.landing_excluded_tags as staged
    on conflict (user_id, tag_id) do nothing
    """,
    has_defaults=True,
)

KINDS = {kind.name: kind for kind in (USERS, DECISIONS, EXPOSURES, EXCLUDED_TAGS)}
"""In the order they land. Users first: serving asks them for the age check, so no decision should be visible before
its user; a tag is excluded last, when its user is known."""
