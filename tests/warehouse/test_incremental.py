"""What is built bit by bit equals what is built at once, whatever landed, was corrected or was erased in between.

A random story (`raw_stories.py`) happens to one database; after every few operations dbt builds what is new, at times
only in part, at times stopped half way. Now and then the same raw rows are built from nothing in a second database, and
every table of both must hold the same rows.

The short story of CI tells every operation at least once. A longer one, of 60 builds (about ten minutes), with a seed:

    INCREMENTAL_BUILDS=60 INCREMENTAL_SEED=any python -m pytest tests/warehouse/test_incremental.py -k full
"""

from __future__ import annotations

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
BUILDS = int(os.environ.get("INCREMENTAL_BUILDS", "5"))
IS_LONG = BUILDS > 10
OPENING = ("new_items", "new_items", "new_items", "register", "decide", "decide_much", "decide", "expose", "rank")
TABLES = ("--resource-type", "model", "--resource-type", "seed")


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
        self.fresh_dbt.run("build", *TABLES, reread=reread)
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
    """The story with all its builds, saved in the middle and at the end."""
    rng = random.Random(SEED)  # noqa: S311 - a repeatable story, no secret
    compared, unfinished, heard = [], [], 0
    story = Story(twins.story, SEED)
    for operation in OPENING:
        story.tell(operation)
    twins.story_dbt.run("build", *TABLES)
    for number, chapter in enumerate(chapters(rng)):
        for operation in chapter:
            story.tell(operation)
        if number % 2 or (IS_LONG and rng.random() < 0.3):
            stop = STOPS[len(unfinished) % len(STOPS)]
            story.log.append(f"{stop.__name__} {stop(twins, rng)}")
            unfinished.append(story.log[-1])
        twins.story_dbt.run("run")
        story.log.append("a build")
        if number == BUILDS // 2 or number == BUILDS - 1 or (IS_LONG and number % 5 == 0):
            since = "\n".join(story.log[heard:])
            compared.append((since, contents(twins.story), twins.from_nothing()))
            heard = len(story.log)
            if differences(*compared[-1][1:]):
                break  # what follows would tell the same again
        if number == BUILDS // 2:
            twins.save("test_incremental_middle")
    twins.save("test_incremental_end")
    return Told(compared, unfinished)


def chapters(rng: random.Random) -> Iterator[list[str]]:
    """Deal all operations out between builds, again and again in a long story."""
    deck: list[str] = []
    size = -(-len(EVERYDAY) // BUILDS) + 2 if not IS_LONG else 8
    for number in range(BUILDS):
        while len(deck) < size:
            deck += rng.sample(EVERYDAY, len(EVERYDAY))
        yield deck[:size] + ([REBUILDING] if IS_LONG and number % 20 == 19 else [])
        deck = deck[size:]


def built_in_part(twins: Twins, rng: random.Random) -> str:
    """Some models are left out, so that others know more, or less, than they do."""
    left_out = rng.sample(sorted(builds(twins.story)), 5) + rng.sample(["int_landed_counted", "int_as_of"], 1)
    twins.story_dbt.run("run", "--exclude", *left_out)
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
            twins.story_dbt.run("run")
        connection.execute("drop function public.refuse() cascade")
    return f"at {model}"


def killed(twins: Twins, rng: random.Random) -> str:
    """The process dies after some models; nothing at the end of a run happens."""
    last = max(row["build_number"] for row in builds(twins.story).values())
    wanted = rng.randint(1, len(builds(twins.story)) - 2)
    process, patience = twins.story_dbt.start("run"), time.monotonic() + 60
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
    empty = {name for name, rows in told.at_once.items() if not rows} & {f"features.{name}" for name in FEATURES}
    assert not empty
    assert all(sum(rows.values()) > 5 for name, rows in told.at_once.items() if name.startswith("marts.fct_"))


FEATURES = ("feat_items", "feat_users", "feat_user_histories", "feat_training_examples", "feat_as_of")


def test_a_build_without_news_changes_no_row(twins: Twins, told: Told) -> None:
    """Nothing is removed or added, and the number that identifies the rows of a table stays."""
    twins.restore(twins.story, "test_incremental_end")
    before = builds(twins.story)
    twins.story_dbt.run("run")
    after = builds(twins.story)
    assert after.keys() == before.keys()
    for model, row in after.items():
        assert row["build_number"] > before[model]["build_number"]
        assert row["changed_build_number"] == before[model]["changed_build_number"], model
        assert (row["was_full"], row["rows_removed"], row["rows_added"]) == (False, 0, 0), model
    assert not differences(contents(twins.story), told.at_once)
    with connect(twins.story) as connection:
        assert connection.execute("select count(*) from intermediate.changed_keys").fetchone() == (0,)
