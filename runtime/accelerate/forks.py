"""Runs are forks of a process that has imported the libraries. Dagster starts an interpreter for each run."""

import multiprocessing

from runtime.instance.server import LocationServer


def install() -> None:
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["runtime.accelerate.preload"])
    LocationServer.process_context = forks
