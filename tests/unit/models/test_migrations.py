import pytest
import sqlalchemy as sa
from alembic import command

from models import migrate
from models.db import make_engine


@pytest.mark.filterwarnings("ignore:Skipped unsupported reflection of expression-based index")
def test_models_and_migrations_are_equal_and_go_up_down_up(database_url_of_its_own):
    engine = make_engine(database_url_of_its_own)
    try:
        migrate.upgrade(engine)
        command.check(migrate.config(engine))
        migrate.downgrade(engine, "base")
        assert set(sa.inspect(engine).get_table_names()) <= {"alembic_version"}
        assert migrate.current(engine) is None
        migrate.upgrade(engine)
        migrate.upgrade(engine)  # a second time changes nothing
        assert migrate.current(engine) == migrate.head()
    finally:
        engine.dispose()
