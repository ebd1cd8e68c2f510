"""The code locations: a folder, a container, a team each."""

from runtime import accelerate
from runtime.load import configuration

configuration.prepare()
accelerate.install()  # the only call; see its docstring
