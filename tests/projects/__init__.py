"""Projects as teams bring them, in shapes that public ones have.

`definitions()` takes what changes when they move in: the resource, and the folder of their pipelines. `RUNS` are the
six runs that load everything, as arguments of `execute_in_process`, and `THEN` those that read what was loaded.
"""
