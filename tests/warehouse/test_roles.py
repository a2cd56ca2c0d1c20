"""Who may do what, role by role: tables of what each role may and may not, each line of them a test.

Belongs here: rights on relations, schemas and functions, those of migrations and those that dbt builds, and statements
that show what the rights amount to. Does not belong here: what is in the relations.
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from orchestration.settings import DatabaseSettings
from orchestration.warehouse.connection import connect

pytestmark = pytest.mark.warehouse

ROLES = ("analyst", "app", "loader", "monitor", "serving_owner", "trainer", "transformer")
EVERYTHING = "select insert update delete truncate"

# Every table that migrations make, and who may do what with it. A role that is not named may do nothing.
TABLES: dict[str, dict[str, str]] = {
    "meta.schema_migrations": {},
    "intermediate.changed_keys": {"transformer": EVERYTHING},
    "ml.accepted_states": {"trainer": EVERYTHING},
    "ml.active_run": {"serving_owner": "select", "trainer": EVERYTHING, "transformer": "select"},
    "ml.gate_runs": {"trainer": EVERYTHING, "transformer": "select"},
    "ml.gate_verdicts": {"trainer": EVERYTHING, "transformer": "select"},
    "ml.item_embeddings": {"serving_owner": "select", "trainer": EVERYTHING},
    "ml.run_inputs": {"trainer": EVERYTHING, "transformer": "select"},
    "ml.run_transitions": {"trainer": EVERYTHING, "transformer": "select"},
    "ml.run_verifications": {"trainer": EVERYTHING},
    "ml.runs": {"trainer": EVERYTHING, "transformer": "select"},
    "ml.test_evaluations": {"trainer": EVERYTHING},
    "ml.trials": {"trainer": EVERYTHING},
    "ml.vector_refreshes": {"trainer": EVERYTHING},
    "ml.user_embeddings": {"serving_owner": "select", "trainer": EVERYTHING},
    "ml.user_tower_rows": {"serving_owner": "select", "trainer": EVERYTHING},
    "ml.user_towers": {"serving_owner": "select", "trainer": EVERYTHING},
    "monitoring.model_builds": {
        "analyst": "select",
        "monitor": "select",
        "trainer": "select",
        "transformer": EVERYTHING,
    },
    "raw_app.decisions": {"loader": "select insert", "serving_owner": "select", "transformer": "select"},
    "raw_app.excluded_tags": {"loader": "select insert delete", "serving_owner": "select", "transformer": "select"},
    "raw_app.exposures": {"loader": "select insert", "transformer": "select"},
    "raw_app.quarantine": {"loader": "select insert update", "transformer": "select"},
    "raw_app.users": {"loader": "select insert update", "serving_owner": "select", "transformer": "select"},
    "raw_dmm.availability": {"loader": "select insert", "transformer": "select"},
    "raw_dmm.item_sightings": {"loader": "select insert update", "transformer": "select"},
    "raw_dmm.items": {"loader": "select insert", "transformer": "select"},
    "raw_dmm.lookups": {"loader": "select insert", "transformer": "select"},
    "raw_dmm.masters": {"loader": "select insert", "transformer": "select"},
    # Only how often a row was met again and how it ended may change, never the row.
    "raw_dmm.quarantine": {"loader": "select insert update", "transformer": "select"},
    "raw_dmm.rankings": {"loader": "select insert", "transformer": "select"},
    "raw_dmm.request_pace": {"loader": "select insert update"},
    "raw_dmm.slices": {"loader": "select insert update", "transformer": "select"},
    "raw_dmm.syncs": {"loader": "select insert update", "transformer": "select"},
}
# Every relation that dbt builds, by schema; dbt owns them all. A role that is not named may do nothing.
BUILT: dict[str, dict[str, str]] = {
    "staging": {"transformer": EVERYTHING},
    "intermediate": {"transformer": EVERYTHING},
    "marts": {"analyst": "select", "transformer": EVERYTHING},
    "features": {"analyst": "select", "trainer": "select", "transformer": EVERYTHING},
    "monitoring": {"analyst": "select", "monitor": "select", "transformer": EVERYTHING},
}
# The few relations that one role more, or one role less, may read.
MORE = {
    ("loader", "monitoring.orphan_content_ids"),  # a backfill asks the catalogue for exactly these
    ("serving_owner", "features.feat_items"),
    *(("serving_owner", f"marts.{name}") for name in ("dim_servable_contents", "fct_popular_contents")),
    *(("serving_owner", f"marts.{name}") for name in ("serving_policy", "feed_policy")),
    *(("trainer", name) for name in ("marts.fct_decisions", "marts.fct_exposures")),  # gates read them
    *(("trainer", name) for name in ("marts.dim_makers", "marts.dim_tags")),  # a judgement tells their names
    ("trainer", "monitoring.landing_freshness"),  # so does the gate of what landed
}
LESS = {
    ("monitor", "monitoring.served_lineage"),  # it names users
}
SCHEMAS: dict[str, dict[str, str]] = {
    "features": {"analyst": "usage", "serving_owner": "usage", "trainer": "usage", "transformer": "usage create"},
    "intermediate": {"transformer": "usage create"},
    "marts": {"analyst": "usage", "serving_owner": "usage", "trainer": "usage", "transformer": "usage create"},
    "meta": {},
    "ml": {"serving_owner": "usage", "trainer": "usage create", "transformer": "usage"},
    "monitoring": {
        "analyst": "usage",
        "loader": "usage",
        "monitor": "usage",
        "trainer": "usage",
        "transformer": "usage create",
    },
    "public": dict.fromkeys(ROLES, "usage"),
    "raw_app": {"loader": "usage", "serving_owner": "usage", "transformer": "usage"},
    "raw_dmm": {"loader": "usage", "transformer": "usage"},
    "serving": {"app": "usage", "serving_owner": "usage create"},
    "staging": {"transformer": "usage create"},
}
FUNCTIONS = {
    "active_run_id": {"app", "serving_owner"},
    "best_item_ids": {"serving_owner"},
    "candidates_of_index": {"serving_owner"},
    "count_full": {"serving_owner"},
    "count_servable": {"serving_owner"},
    "diversified": {"serving_owner"},
    "drawn_contents": {"serving_owner"},
    "encode_history": {"serving_owner"},
    "estimate_wanted": {"serving_owner"},
    "explain": {"app", "serving_owner"},
    "explain_plan": {"app", "serving_owner"},
    "explore": {"app", "serving_owner"},
    "feed": {"app", "serving_owner"},
    "feed_candidates": {"serving_owner"},
    "feed_slots": {"serving_owner"},
    "filter_for": {"serving_owner"},
    "filter_of": {"serving_owner"},
    "fresh": {"app", "serving_owner"},
    "full_groups": {"serving_owner"},
    "is_wanted": {"serving_owner"},
    "items_among": {"serving_owner"},
    "items_wanted": {"serving_owner"},
    "keeps_limits": {"serving_owner"},
    "most_popular_item_ids": {"serving_owner"},
    "nearest_items": {"serving_owner"},
    "new_seed": {"serving_owner"},
    "offers": {"serving_owner"},
    "params_of": {"serving_owner"},
    "personal_rows": {"serving_owner"},
    "plan_scan": {"serving_owner"},
    "policy_value": {"serving_owner"},
    "popular": {"app", "serving_owner"},
    "recommend": {"app", "serving_owner"},
    "recommend_from_history": {"app", "serving_owner"},
    "require_limit": {"serving_owner"},
    "require_servable": {"serving_owner"},
    "search_by_tags": {"app", "serving_owner"},
    "search_text": {"app", "serving_owner"},
    "servable_users": {"serving_owner"},
    "similar_items": {"app", "serving_owner"},
    "state_of_user": {"serving_owner"},
    "tier_of": {"serving_owner"},
    "titles_like": {"serving_owner"},
    "titles_with": {"serving_owner"},
    "wanted_items": {"serving_owner"},
}
MAY, MAY_NOT = True, False
# What the rights amount to: role, statement, whether it is let through.
STATEMENTS = [
    # An analyst reads marts, features and monitoring, and nothing else.
    ("analyst", "select * from marts.fct_decisions", MAY),
    ("analyst", "select * from features.feat_training_examples", MAY),
    ("analyst", "select * from monitoring.model_runs", MAY),
    ("analyst", "select * from monitoring.served_lineage where user_id = 'u1'", MAY),
    ("analyst", "select * from monitoring.model_builds", MAY),
    ("analyst", "explain analyze select count(*) from marts.dim_items", MAY),
    ("analyst", "create temporary table mine as select * from marts.dim_items", MAY),
    ("analyst", "select * from raw_app.users", MAY_NOT),
    ("analyst", "select * from raw_dmm.items", MAY_NOT),
    ("analyst", "select * from staging.stg_app__users", MAY_NOT),
    ("analyst", "select * from intermediate.int_items_latest", MAY_NOT),
    ("analyst", "select * from ml.runs", MAY_NOT),
    ("analyst", "select * from ml.user_embeddings", MAY_NOT),
    ("analyst", "select * from meta.schema_migrations", MAY_NOT),
    ("analyst", "select * from serving.recommend('u1', 5)", MAY_NOT),
    ("analyst", "select * from serving.servable_users()", MAY_NOT),
    ("analyst", "update marts.dim_items set title = ''", MAY_NOT),
    ("analyst", "delete from features.feat_users", MAY_NOT),
    ("analyst", "insert into monitoring.model_builds values ('x', 1, '', 1, 1, true)", MAY_NOT),
    ("analyst", "update ml.active_run set run_id = 'mine'", MAY_NOT),
    ("analyst", "create table marts.mine (x int)", MAY_NOT),
    ("analyst", "create view monitoring.mine as select 1 as x", MAY_NOT),
    ("analyst", "create index on marts.dim_items (title)", MAY_NOT),
    ("analyst", "drop view monitoring.model_runs", MAY_NOT),
    ("analyst", "create schema mine", MAY_NOT),
    ("analyst", "copy (select 1) to '/tmp/mine'", MAY_NOT),
    ("analyst", "copy (select 1) to program 'true'", MAY_NOT),
    ("analyst", "select pg_read_file('/etc/passwd')", MAY_NOT),
    # A loader adds what was said, and changes or takes back nothing of it.
    (
        "loader",
        "insert into raw_app.decisions (user_id, content_id, decision, decided_at) values ('x', 'y', 'like', now())",
        MAY,
    ),
    ("loader", "insert into raw_app.excluded_tags (user_id, tag_id) values ('u', 1)", MAY),
    ("loader", "delete from raw_app.excluded_tags where user_id = 'u'", MAY),
    ("loader", "update raw_app.users set age_verified = false where user_id = 'u1'", MAY),
    ("loader", "select * from monitoring.orphan_content_ids", MAY),
    ("loader", "update raw_app.decisions set decided_at = now()", MAY_NOT),
    ("loader", "delete from raw_app.decisions", MAY_NOT),
    ("loader", "update raw_app.exposures set propensity = 1", MAY_NOT),
    ("loader", "delete from raw_app.exposures", MAY_NOT),
    ("loader", "truncate raw_app.exposures", MAY_NOT),
    ("loader", "delete from raw_app.users", MAY_NOT),
    ("loader", "update raw_app.quarantine set payload = '{}'", MAY_NOT),
    ("loader", "update raw_dmm.items set payload = '{}'", MAY_NOT),
    ("loader", "update raw_dmm.rankings set rank = 1", MAY_NOT),
    ("loader", "delete from raw_dmm.availability", MAY_NOT),
    ("loader", "select * from monitoring.landing_runs", MAY_NOT),
    ("loader", "select * from features.feat_items", MAY_NOT),
    ("loader", "select * from ml.user_embeddings", MAY_NOT),
    # A transformer reads what landed and what the registry says, and writes its own schemas only.
    ("transformer", "select * from raw_app.decisions", MAY),
    ("transformer", "select * from ml.runs", MAY),
    ("transformer", "create table intermediate.mine (x int)", MAY),
    ("transformer", "drop view monitoring.served_lineage", MAY),
    ("transformer", "delete from raw_dmm.items", MAY_NOT),
    ("transformer", "insert into raw_app.excluded_tags (user_id, tag_id) values ('u', 1)", MAY_NOT),
    ("transformer", "create table raw_dmm.mine (x int)", MAY_NOT),
    ("transformer", "update ml.runs set state = 'active'", MAY_NOT),
    ("transformer", "select * from ml.item_embeddings", MAY_NOT),
    ("transformer", "select * from serving.servable_users()", MAY_NOT),
    # A trainer reads the features and the decisions, and writes the registry and the vectors.
    ("trainer", "select * from features.feat_training_examples", MAY),
    ("trainer", "select * from marts.fct_decisions", MAY),
    ("trainer", "select * from monitoring.model_builds", MAY),
    ("trainer", "update ml.runs set gate_reason = ''", MAY),
    ("trainer", "create table ml.mine (x int)", MAY),
    ("trainer", "delete from ml.user_embeddings", MAY),
    ("trainer", "select * from raw_app.users", MAY_NOT),
    ("trainer", "select * from marts.dim_users", MAY_NOT),
    ("trainer", "select * from staging.stg_app__users", MAY_NOT),
    ("trainer", "select * from monitoring.served_lineage", MAY_NOT),
    ("trainer", "update features.feat_items set is_eligible = true", MAY_NOT),
    ("trainer", "delete from features.feat_training_examples", MAY_NOT),
    ("trainer", "create table features.mine (x int)", MAY_NOT),
    ("trainer", "select * from serving.recommend('u1', 5)", MAY_NOT),
    # An app executes the doors and reads no table.
    ("app", "select * from serving.recommend(p_user_id => 'u1', p_limit => 5)", MAY),
    ("app", "select serving.active_run_id()", MAY),
    ("app", "select * from serving.servable_users()", MAY_NOT),
    ("app", "select * from serving.popular(p_window => '7 days')", MAY),
    ("app", "select * from serving.fresh(p_user_id => 'u1')", MAY),
    ("app", "select * from serving.explore(p_seed => 1)", MAY),
    ("app", "select * from serving.search_text(p_query => '旅')", MAY),
    ("app", "select * from serving.feed(p_limit => 5)", MAY),
    ("app", "select * from serving.feed_slots('guest', 5)", MAY_NOT),
    ("app", "select serving.policy_value('diversity_places')", MAY_NOT),
    ("app", "select serving.diversified('{}', 1, 1, 1)", MAY_NOT),
    ("app", "select * from marts.serving_policy", MAY_NOT),
    ("app", "select * from marts.fct_popular_contents", MAY_NOT),
    ("analyst", "select * from marts.feed_policy", MAY),
    ("app", "select * from serving.recommend_from_history(p_liked => '{item1}', p_limit => 5)", MAY),
    ("app", "select * from serving.explain_plan(p_user_id => 'u1')", MAY),
    ("app", "select serving.best_item_ids('run', null, null, 1)", MAY_NOT),
    ("app", "select * from serving.nearest_items('run', null, null, 1)", MAY_NOT),
    ("app", "select serving.encode_history('run', '{}', '{}', '{}')", MAY_NOT),
    ("app", "select * from serving.state_of_user('u1', 'run')", MAY_NOT),
    ("app", "select * from ml.user_tower_rows", MAY_NOT),
    ("app", "select * from marts.dim_items", MAY_NOT),
    ("app", "select * from features.feat_items", MAY_NOT),
    ("app", "select * from monitoring.model_runs", MAY_NOT),
    ("app", "select * from raw_app.decisions", MAY_NOT),
    ("app", "select * from ml.item_embeddings", MAY_NOT),
    ("app", "create table serving.mine (x int)", MAY_NOT),
    ("app", "create or replace function serving.active_run_id() returns text language sql as 'select 1'", MAY_NOT),
    # Monitoring reads monitoring, but no user's name.
    ("monitor", "select * from monitoring.model_runs", MAY),
    ("monitor", "select * from monitoring.gate_results", MAY),
    ("monitor", "select * from monitoring.decision_join_quality", MAY),
    ("monitor", "select * from monitoring.served_lineage", MAY_NOT),
    ("monitor", "select * from marts.fct_decisions", MAY_NOT),
    ("monitor", "select * from features.feat_users", MAY_NOT),
    ("monitor", "select * from ml.runs", MAY_NOT),
    ("monitor", "select * from ml.user_embeddings", MAY_NOT),
    ("monitor", "select * from raw_app.users", MAY_NOT),
    ("monitor", "select * from serving.recommend('u1', 5)", MAY_NOT),
    ("monitor", "delete from monitoring.orphan_content_ids", MAY_NOT),
    # The functions' owner reads what they answer from, and writes nothing.
    ("serving_owner", "select * from raw_app.decisions", MAY),
    ("serving_owner", "select * from features.feat_items", MAY),
    ("serving_owner", "select * from marts.serving_policy", MAY),
    ("serving_owner", "select * from ml.user_embeddings", MAY),
    ("serving_owner", "select * from serving.servable_users()", MAY),
    ("serving_owner", "select * from raw_app.exposures", MAY_NOT),
    ("serving_owner", "select * from raw_dmm.items", MAY_NOT),
    ("serving_owner", "select * from features.feat_users", MAY_NOT),
    ("serving_owner", "select * from features.feat_training_examples", MAY_NOT),
    ("serving_owner", "select * from marts.dim_items", MAY_NOT),
    ("serving_owner", "select * from marts.fct_decisions", MAY_NOT),
    ("serving_owner", "select * from ml.runs", MAY_NOT),
    ("serving_owner", "delete from ml.user_embeddings", MAY_NOT),
    ("serving_owner", "update ml.active_run set run_id = 'mine'", MAY_NOT),
    (
        "serving_owner",
        "insert into raw_app.users (user_id, created_at, age_verified) values ('x', now(), true)",
        MAY_NOT,
    ),
    # What nobody may: put a function or table where everybody's search looks, or become somebody else.
    *((role, "create table public.mine (x int)", MAY_NOT) for role in ROLES),
    *((role, "create function public.l2_norm(text) returns int language sql as 'select 1'", MAY_NOT) for role in ROLES),
    *((role, "create role mine", MAY_NOT) for role in ROLES),
    *((role, f"set role {other}", MAY_NOT) for role in ROLES for other in ROLES if other != role),
]

Rights = dict[tuple[str, str], str]


def rights(database: DatabaseSettings) -> tuple[Rights, set[str], set[str]]:
    """Return what roles may do by (role, relation), the relations of dbt, and all others."""
    with connect(database) as connection:
        found = connection.execute(
            """
            select r.role, n.nspname || '.' || c.relname, string_agg(p.privilege, ' ' order by p.place)
            from pg_class as c
            inner join pg_namespace as n on c.relnamespace = n.oid
            cross join unnest(%s::text[]) as r (role)
            cross join unnest(string_to_array(%s, ' ')) with ordinality as p (privilege, place)
            where
                c.relkind in ('r', 'p', 'v', 'm', 'f')
                and n.nspname !~ '^(pg_|information_schema)'
                and case
                    when p.privilege in ('select', 'insert', 'update')
                        then has_any_column_privilege(r.role, c.oid, p.privilege)
                    else has_table_privilege(r.role, c.oid, p.privilege)
                end
            group by 1, 2
            """,
            [list(ROLES), EVERYTHING],
        ).fetchall()
        relations = connection.execute(
            "select n.nspname || '.' || c.relname from pg_class as c inner join pg_namespace as n"
            " on c.relnamespace = n.oid"
            " where c.relkind in ('r', 'p', 'v', 'm', 'f') and n.nspname !~ '^(pg_|information_schema)'"
        ).fetchall()
    names = {name for (name,) in relations}
    built = {name for name in names - set(TABLES) if name.split(".")[0] in BUILT}
    return {(role, name): found for role, name, found in found}, built, names - built


@pytest.fixture(scope="module")
def found(served: DatabaseSettings) -> tuple[Rights, set[str], set[str]]:
    """What roles may do in a warehouse that was built and used."""
    return rights(served)


@pytest.fixture(scope="module")
def connection_of_owner(served: DatabaseSettings) -> Iterator[psycopg.Connection]:
    """One connection for hundreds of lines, each of which is taken back."""
    with connect(served, autocommit=True) as connection:
        yield connection


def test_no_relation_is_missing_from_the_table_of_rights(found: tuple[Rights, set[str], set[str]]) -> None:
    _, built, others = found
    assert others == set(TABLES)
    assert {name.split(".")[0] for name in built} == set(BUILT)
    assert {name for _, name in MORE | LESS} <= built


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("table", TABLES)
def test_a_role_may_do_to_a_table_what_was_agreed_and_no_more(
    found: tuple[Rights, set[str], set[str]], table: str, role: str
) -> None:
    assert found[0].get((role, table), "") == TABLES[table].get(role, "")


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("schema", BUILT)
def test_a_role_may_do_to_each_relation_of_dbt_what_was_agreed_and_no_more(
    found: tuple[Rights, set[str], set[str]], schema: str, role: str
) -> None:
    relations = {name for name in found[1] if name.startswith(f"{schema}.")}
    expected = {name: BUILT[schema].get(role, "") for name in relations}
    expected |= {name: "select" for one, name in MORE if one == role and name in relations}
    expected |= {name: "" for one, name in LESS if one == role and name in relations}
    assert {name: found[0].get((role, name), "") for name in relations} == expected


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_schema_is_open_to_the_agreed_roles_only(
    connection_of_owner: psycopg.Connection, schema: str, role: str
) -> None:
    privileges = connection_of_owner.execute(
        "select has_schema_privilege(%(role)s, %(schema)s, 'usage'),"
        " has_schema_privilege(%(role)s, %(schema)s, 'create')",
        {"role": role, "schema": schema},
    ).fetchone()
    words = SCHEMAS[schema].get(role, "").split()
    assert privileges == ("usage" in words, "create" in words)


def test_no_schema_is_missing_from_the_table_of_schemas(served: DatabaseSettings) -> None:
    with connect(served) as connection:
        schemas = connection.execute(
            "select nspname::text from pg_namespace where nspname !~ '^(pg_|information_schema)'"
        ).fetchall()
    assert {name for (name,) in schemas} == set(SCHEMAS)


def test_every_serving_function_is_executed_by_the_agreed_roles_only(served: DatabaseSettings) -> None:
    with connect(served) as connection:
        found = connection.execute(
            """
            select p.proname::text, r.role
            from pg_proc as p
            cross join unnest(%s::text[]) as r (role)
            where p.pronamespace = 'serving'::regnamespace and has_function_privilege(r.role, p.oid, 'execute')
            """,
            [list(ROLES)],
        ).fetchall()
        owners = connection.execute(
            "select distinct proowner::regrole::text from pg_proc where pronamespace = 'serving'::regnamespace"
        ).fetchall()
    assert set(found) == {(name, role) for name, roles in FUNCTIONS.items() for role in roles}
    assert owners == [("serving_owner",)]


@pytest.mark.parametrize(
    ("role", "statement", "may"), [pytest.param(*line, id=f"{line[0]}: {line[1]}") for line in STATEMENTS]
)
def test_a_role_gets_through_with_what_is_its_own_and_with_nothing_else(
    connection_of_owner: psycopg.Connection, role: str, statement: str, may: bool
) -> None:
    with connection_of_owner.transaction(force_rollback=True):
        # Not `set role`, from which a session may come back to its owner: this is the role's own login.
        connection_of_owner.execute(f"set local session authorization {role}")
        if may:
            connection_of_owner.execute(statement)
        else:
            refused = pytest.raises(psycopg.errors.InsufficientPrivilege, match=r"permission denied|must be owner")
            with refused, connection_of_owner.transaction():
                connection_of_owner.execute(statement)


def test_roles_are_groups_without_a_login_and_members_of_nothing(served: DatabaseSettings) -> None:
    """Only the owner, who migrates, is a member of the groups; logins of one role each are made per environment."""
    with connect(served) as connection:
        groups = connection.execute(
            "select rolname::text, rolcanlogin, rolsuper, rolcreaterole, rolcreatedb, rolbypassrls, rolreplication"
            " from pg_roles where rolname = any(%s) order by rolname",
            [list(ROLES)],
        ).fetchall()
        members = connection.execute(
            "select distinct m.member::regrole::text from pg_auth_members as m"
            " where m.roleid::regrole::text = any(%(roles)s) or m.member::regrole::text = any(%(roles)s)",
            {"roles": list(ROLES)},
        ).fetchall()
    assert groups == [(role, *([False] * 6)) for role in ROLES]
    assert members == [(served.user,)]


def test_dbt_owns_what_it_builds(served: DatabaseSettings, found: tuple[Rights, set[str], set[str]]) -> None:
    with connect(served) as connection:
        owners = connection.execute(
            "select distinct c.relowner::regrole::text from pg_class as c where c.oid = any(%s::regclass[])",
            [sorted(found[1])],
        ).fetchall()
    assert owners == [("transformer",)]


def test_a_user_may_take_an_exclusion_back(warehouse_session: DatabaseSettings) -> None:
    with connect(warehouse_session, "loader") as connection:
        connection.execute("insert into raw_app.excluded_tags (user_id, tag_id) values ('u', 1)")
        assert connection.execute("delete from raw_app.excluded_tags where user_id = 'u'").rowcount == 1
        connection.rollback()


def test_definer_functions_look_for_temporary_objects_last(warehouse_session: DatabaseSettings) -> None:
    """Else whoever calls one could slip in a table or function of his own under the owner's rights."""
    with connect(warehouse_session) as connection:
        settings = connection.execute(
            "select proname, proconfig from pg_proc where prosecdef and pronamespace = 'serving'::regnamespace"
        ).fetchall()
    assert {name for name, _ in settings} == {
        "active_run_id",
        "explain",
        "explain_plan",
        "explore",
        "feed",
        "fresh",
        "popular",
        "recommend",
        "recommend_from_history",
        "search_by_tags",
        "search_text",
        "servable_users",
        "similar_items",
    }
    for name, values in settings:
        paths = [value.removeprefix("search_path=") for value in values if value.startswith("search_path=")]
        assert paths in (["pg_catalog, pg_temp"], ["pg_catalog, public, pg_temp"]), name
