"""What is built bit by bit equals what is built at once, whatever landed, was corrected or was erased in between.

A random story (`raw_stories.py`) happens to one database; after every few operations dbt builds what is new, at times
only in part, at times stopped half way. Now and then the same raw rows are built from nothing in a second database, and
every table of both must hold the same rows.

The short story of CI tells every operation at least once. A longer one (60 builds take a quarter of an hour), with a
seed of its own, and with each planted mistake alone:

    INCREMENTAL_BUILDS=60 INCREMENTAL_SEED=any python -m pytest tests/warehouse/test_incremental.py
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from built_tables import Contents, builds, contents, copy_raw, differences
from dbt_runs import PROJECT, DbtFailed, DbtProcess
from psycopg import sql
from raw_stories import EVERYDAY, REBUILDING, Story

from orchestration.settings import DatabaseSettings
from orchestration.warehouse.connection import connect

pytestmark = pytest.mark.warehouse

SEED = os.environ.get("INCREMENTAL_SEED", "20261124")
BUILDS = int(os.environ.get("INCREMENTAL_BUILDS", "2"))
IS_LONG = BUILDS > 10
OPENING = ("new_items", "new_items", "new_items", "register", "decide", "decide_much", "decide", "expose", "rank")
CLOSING = ("decide", "expose", "expose_before_a_decision", "register", "register")
"""So that something is left after all erasures."""
ALL = ("build", "--resource-type", "model", "--resource-type", "seed")
NEWS = ("build", "--resource-type", "model", "--exclude", "staging")  # views are not built bit by bit


@dataclass
class Twins:
    """The database of the story and the one that is built from nothing, each with a dbt; both read one project."""

    template: DatabaseSettings
    project: Path
    story: DatabaseSettings
    fresh: DatabaseSettings
    story_dbt: DbtProcess
    fresh_dbt: DbtProcess
    saved: list[str] = field(default_factory=list)

    def restore(self, database: DatabaseSettings, origin: str) -> None:
        """Put a copy of another database in the place of one."""
        with connect(replace(self.template, dbname="postgres"), autocommit=True) as connection:
            name = sql.Identifier(database.dbname)
            connection.execute(sql.SQL("drop database if exists {} with (force)").format(name))
            connection.execute(
                sql.SQL("create database {} template {} strategy file_copy").format(name, sql.Identifier(origin))
            )

    def save(self, name: str) -> None:
        """Keep the database of the story as it is now."""
        self.restore(replace(self.story, dbname=name), self.story.dbname)
        self.saved.append(name)

    def from_nothing(self, *, reread: bool = False) -> Contents:
        """Build the story's raw rows in an empty database."""
        self.restore(self.fresh, self.template.dbname)
        copy_raw(self.story, self.fresh)
        self.fresh_dbt.run(*ALL, reread=reread)
        return contents(self.fresh)

    @contextmanager
    def edited(self, changes: dict[str, tuple[str, str]]) -> Iterator[None]:
        """Let files of the project hold another text for a while: for each, what is replaced by what."""
        for name, (old, new) in changes.items():
            text = (PROJECT / name).read_text()
            assert text.count(old) == 1, f"{name} holds {text.count(old)} times: {old}"
            (self.project / name).write_text(text.replace(old, new))
        yield
        for name in changes:
            shutil.copy(PROJECT / name, self.project / name)


@pytest.fixture(scope="module")
def twins(template: DatabaseSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twins]:
    """Two databases, a project of their own, and dbt at hand."""
    folder = tmp_path_factory.mktemp("incremental")
    project = folder / "project"
    shutil.copytree(PROJECT, project, ignore=shutil.ignore_patterns("target", "logs"))
    story, fresh = (replace(template, dbname=name) for name in ("test_incremental", "test_from_nothing"))
    made = Twins(
        template,
        project,
        story,
        fresh,
        DbtProcess(story, folder / "story", project),
        DbtProcess(fresh, folder / "fresh", project),
    )
    for database in (story, fresh):
        made.restore(database, template.dbname)
    yield made
    made.story_dbt.close()
    made.fresh_dbt.close()
    with connect(replace(template, dbname="postgres"), autocommit=True) as connection:
        for name in (story.dbname, fresh.dbname, *made.saved):
            connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@dataclass(frozen=True)
class Told:
    """A story at its end."""

    compared: list[tuple[str, Contents, Contents]]
    """What happened since the last comparison, what the builds made of it, what one build from nothing makes of it."""
    unfinished: list[str]
    """How builds were stopped."""

    @property
    def at_once(self) -> Contents:
        """What the raw rows are from nothing, at the end."""
        return self.compared[-1][2]


@pytest.fixture(scope="module")
def told(twins: Twins) -> Told:
    """The story with all its builds, saved at the end."""
    rng = random.Random(SEED)  # noqa: S311 - a repeatable story, no secret
    compared, unfinished, heard = [], [], 0
    story = Story(twins.story, SEED)
    for operation in OPENING:
        story.tell(operation)
    twins.story_dbt.run(*ALL)
    for number, chapter in enumerate(chapters(rng)):
        for operation in chapter:
            story.tell(operation)
        if not IS_LONG or rng.random() < 0.3:
            stop = STOPS[len(unfinished) % len(STOPS)]
            story.log.append(f"{stop.__name__} {stop(twins, rng)}")
            unfinished.append(story.log[-1])
        twins.story_dbt.run(*NEWS)
        story.log.append("a build")
        if number == BUILDS - 1 or (IS_LONG and number % 5 == 0):
            since = "\n".join(story.log[heard:])
            compared.append((since, contents(twins.story), twins.from_nothing()))
            heard = len(story.log)
            if differences(*compared[-1][1:]):
                break  # what follows would tell the same again
    twins.save("test_incremental_end")
    return Told(compared, unfinished)


def chapters(rng: random.Random) -> Iterator[list[str]]:
    """Deal all operations out between builds, again and again in a long story."""
    size = 8 if IS_LONG else -(-len(EVERYDAY) // BUILDS)
    deck: list[str] = []
    for number in range(BUILDS):
        while len(deck) < size:
            deck += rng.sample(EVERYDAY, len(EVERYDAY))
        rest = [*([REBUILDING] if number % 20 == 19 else []), *(CLOSING if number == BUILDS - 1 else [])]
        yield deck[:size] + rest
        deck = deck[size:]


def built_in_part(twins: Twins, rng: random.Random) -> str:
    """Some models are left out, so that others know more, or less, than they do."""
    left_out = rng.sample(sorted(builds(twins.story)), 5) + rng.sample(["int_landed_counted", "int_as_of"], 1)
    twins.story_dbt.run(*NEWS, *left_out)
    return f"without {' '.join(left_out)}"


def broken(twins: Twins, rng: random.Random) -> str:
    """One table refuses what a build wants to do to it; what depends on it is not built."""
    model = rng.choice(sorted(builds(twins.story)))
    with connect(twins.story, autocommit=True) as connection:
        oid = builds(twins.story)[model]["relation_oid"]
        table = connection.execute("select %s::oid::regclass::text", [oid]).fetchone()
        assert table
        connection.execute(
            "create function public.refuse() returns trigger language plpgsql"
            " as $$begin raise exception 'refused'; end$$"
        )
        connection.execute(
            f"create trigger refuse before insert or delete on {table[0]} execute function public.refuse()"
        )
        with pytest.raises(DbtFailed, match="refused"):
            twins.story_dbt.run(*NEWS)
        connection.execute("drop function public.refuse() cascade")
    return f"at {model}"


def killed(twins: Twins, rng: random.Random) -> str:
    """The process dies after some models; nothing at the end of a run happens."""
    last = max(row["build_number"] for row in builds(twins.story).values())
    wanted = rng.randint(1, len(builds(twins.story)) - 2)
    process, patience = twins.story_dbt.start(*NEWS), time.monotonic() + 60
    while sum(row["build_number"] > last for row in builds(twins.story).values()) < wanted:
        assert time.monotonic() < patience
        time.sleep(0.02)
    os.kill(process, signal.SIGKILL)
    with pytest.raises(DbtFailed, match="killed"):
        twins.story_dbt.finish()
    return f"after {wanted} models"


STOPS = (built_in_part, broken) if not IS_LONG else (built_in_part, broken, killed)


def test_what_is_built_bit_by_bit_equals_a_full_build(told: Told) -> None:
    """Every table of every layer holds the same rows, with the same indexes, constraints, rights and comments."""
    assert told.unfinished, "no build was stopped"
    for since, bit_by_bit, at_once in told.compared:
        found = differences(bit_by_bit, at_once)
        first = next(iter(found.items()), None)
        assert not found, f"{sorted(found)} differ, first\n{first}\nafter\n{since}"
    # Nothing is shown by tables without rows.
    assert all(rows for name, rows in told.at_once.items() if name.startswith(("features.", "marts.")))


def test_a_build_without_news_changes_no_row(twins: Twins, told: Told) -> None:
    """Nothing is removed or added, and the number that identifies the rows of a table stays."""
    twins.restore(twins.story, "test_incremental_end")
    before = builds(twins.story)
    twins.story_dbt.run(*NEWS)
    after = builds(twins.story)
    assert after.keys() == before.keys()
    for model, row in after.items():
        assert row["build_number"] > before[model]["build_number"]
        assert row["changed_build_number"] == before[model]["changed_build_number"], model
        assert (row["was_full"], row["rows_removed"], row["rows_added"]) == (False, 0, 0), model
    assert not differences(contents(twins.story), told.at_once)
    with connect(twins.story) as connection:
        assert connection.execute("select count(*) from intermediate.changed_keys").fetchone() == (0,)


@dataclass(frozen=True)
class Mistake:
    """A text of a model that makes it miss some news, and the table that is wrong in the end."""

    model: str
    right: str
    wrong: str
    table: str

    def edit(self) -> dict[str, tuple[str, str]]:
        """Return the change of the model's file."""
        return {f"models/{self.model}.sql": (self.right, self.wrong)}


EXPOSED = "from {{ changed(ref('fct_exposures'), 'user') }}"
DECIDED = "(since at time zone 'Asia/Tokyo')::date as active_on"
EXPOSURES = "{{ touched_events(ref('int_exposures_resolved'), 'exposure_id', 'exposed_at', 'surface') }}"
MISTAKES = {
    "late_exposures_change_no_example": Mistake(
        *("features/feat_training_examples", EXPOSED),
        f"{EXPOSED} where since > (select max(decided_at) - interval '1 day' from {{{{ this }}}})",
        "features.feat_training_examples",
    ),
    "late_decisions_change_no_day": Mistake(
        *("marts/fct_item_popularity_daily", DECIDED),
        "greatest((since at time zone 'Asia/Tokyo')::date, (select max(active_on) from {{ this }})) as active_on",
        "marts.fct_item_popularity_daily",
    ),
    "a_verified_age_is_no_news": Mistake(
        *("marts/dim_users", "(known.is_registered, known.is_age_verified,"),
        *("(known.is_registered, built.is_age_verified,", "marts.dim_users"),
    ),
    "an_event_has_a_greater_number_than_all_before": Mistake(
        *("marts/fct_exposures", EXPOSURES),
        f"select exposure_id from ({EXPOSURES}) as t where exposure_id > (select max(exposure_id) from {{{{ this }}}})",
        "marts.fct_exposures",
    ),
}
# The first three spoil a table each; the last one spoils everything that reads exposures.
AT_ONCE = [[*MISTAKES][:3]] if not IS_LONG else [[name] for name in MISTAKES]


LATE = """
    with

    registered as (
        select user_id from raw_app.users order by user_id desc limit 1
    ),

    shown as (
        select examples.user_id, exposures.exposure_id
        from features.feat_training_examples as examples
        inner join marts.fct_exposures as exposures using (user_id, item_id)
        where
            exposures.exposed_at < examples.decided_at
            and examples.decided_at < (select max(decided_at) - interval '3 days' from marts.fct_decisions)
            and examples.user_id not in (table registered)
        order by exposures.exposure_id
        limit 1
    )

    select (table registered), shown.exposure_id, decisions.decision_id
    from shown
    inner join marts.fct_decisions as decisions
        on decisions.user_id not in (shown.user_id, (table registered)) and decisions.decision <> 'like'
    where
        decisions.item_id is not null
        and decisions.decided_at < (select max(decided_at) - interval '3 days' from marts.fct_decisions)
    order by decisions.decision_id
    limit 1
"""


@pytest.mark.parametrize("mistakes", AT_ONCE, ids=" and ".join)
def test_a_model_that_misses_some_news_would_be_found(twins: Twins, told: Told, mistakes: list[str]) -> None:
    """Three rows of the story of three users land long after the others, and what they change is not built."""
    twins.restore(twins.story, "test_incremental_end")
    planted = [MISTAKES[name] for name in mistakes]
    with connect(twins.story) as connection:
        late = connection.execute(LATE).fetchone()
        assert late, "the story has no such rows"
        connection.execute("update raw_app.users set age_verified = not age_verified where user_id = %s", late[:1])
        connection.execute("delete from raw_app.exposures where exposure_id = %s", late[1:2])
        connection.execute("delete from raw_app.decisions where decision_id = %s", late[2:])
    with twins.edited({name: change for mistake in planted for name, change in mistake.edit().items()}):
        twins.story_dbt.run(*NEWS, reread=True)  # another text: these models are built anew, and right
        copy_raw(replace(twins.story, dbname="test_incremental_end"), twins.story)
        twins.story_dbt.run(*NEWS, reread=True)
    found = differences(contents(twins.story), told.at_once)
    assert found.keys() >= {mistake.table for mistake in planted}


def test_another_rule_or_another_text_of_a_model_builds_it_anew(twins: Twins, told: Told) -> None:
    """A seed's readers and a changed model are built whole, with what depends on them; the rest stays incremental."""
    twins.restore(twins.story, "test_incremental_end")
    rules, model = "seeds/content_policy.csv", "models/intermediate/int_entity_namings.sql"
    last, grain = (PROJECT / rules).read_text().splitlines()[-1], (PROJECT / model).read_text().splitlines()[0]
    with twins.edited(
        {rules: (last, f"{last}\n77,tag_id,7,block,A test."), model: (grain, f"{grain}\n-- Another text.")}
    ):
        twins.story_dbt.run(*ALL, reread=True)
    full = {name for name, row in builds(twins.story).items() if row["was_full"]}
    assert full >= {"int_items_policy", "dim_items", "feat_items", "fct_decisions", "int_entity_namings"}
    assert not full & {"int_item_snapshots", "int_items_latest", "int_item_entities"}
    with connect(twins.story) as connection:
        assert connection.execute("select count(*) from features.feat_items where 7 = any(tag_ids)").fetchone() == (0,)
    assert differences(contents(twins.story), told.at_once), "no item of the story has the tag"
    twins.story_dbt.run(*ALL)
    assert not differences(contents(twins.story), told.at_once)


SPOILED = (
    "update marts.fct_decisions set surface = 'spoiled' where {decided}",
    "update marts.fct_exposures set position = position + 1 where {exposed}",
    "delete from marts.fct_item_popularity_daily where active_on = '{day}'",
    "update features.feat_training_examples set item_like_count_30d = 99, surface = 'spoiled' where {decided}",
    "update features.feat_users set recent_like_rate = 0.123 where user_id in ({users})",
    "update features.feat_user_histories set decided_at[1] = now() where user_id in ({users})",
    "update marts.dim_items set title = 'spoiled' where item_id in ({items})",
    "update features.feat_items set price_jpy = 1 where item_id in ({items})",
    "delete from marts.fct_item_prices where item_id in ({items})",
)


def test_one_command_makes_a_spoiled_day_good(twins: Twins, told: Told) -> None:
    """Rows of one day in Japan that somebody spoiled are right again after a build with the variable backfill_day."""
    twins.restore(twins.story, "test_incremental_end")
    with connect(twins.story) as connection:
        row = connection.execute(
            """
            select (fetched_at at time zone 'Asia/Tokyo')::date::text
            from intermediate.int_item_snapshots
            where
                (fetched_at at time zone 'Asia/Tokyo')::date in (
                    select (decided_at at time zone 'Asia/Tokyo')::date from features.feat_training_examples
                    intersect
                    select (exposed_at at time zone 'Asia/Tokyo')::date from marts.fct_exposures
                )
            group by 1
            order by count(*) desc, 1
            """
        ).fetchone()
        assert row
        day = row[0]
        on = f"at time zone 'Asia/Tokyo')::date = '{day}'"
        places = {
            "day": day,
            "decided": f"(decided_at {on}",
            "exposed": f"(exposed_at {on}",
            "users": f"select user_id from features.feat_training_examples where (decided_at {on}",
            "items": f"select item_id from intermediate.int_item_snapshots where (fetched_at {on}",
        }
        for spoil in SPOILED:
            assert connection.execute(spoil.format(**places)).rowcount, spoil
    assert len(differences(contents(twins.story), told.at_once)) >= 8
    twins.story_dbt.run(*NEWS, "--vars", json.dumps({"backfill_day": day}))
    assert not differences(contents(twins.story), told.at_once)
