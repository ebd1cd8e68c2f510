"""The code locations: a folder, a container, a team each."""

from sqlalchemy.dialects import registry

from runtime import accelerate
from runtime.load.placeholders import drop_placeholders

drop_placeholders()
# SQLAlchemy 2.1 reads `postgresql://` with psycopg 3, which is not installed.
registry.register("postgresql", "sqlalchemy.dialects.postgresql.psycopg2", "dialect")
accelerate.install()  # the only call; see its docstring
