"""Projects as teams bring them, in shapes that public ones have.

`definitions()` takes what changes when they move in: the resource, and the folder of their pipelines.
"""
