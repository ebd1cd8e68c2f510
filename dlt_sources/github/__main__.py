"""Load GitHub repositories with plain dlt: `python -m dlt_sources.github owner/name [owner/name …]`."""

import argparse

import dlt

from dlt_sources.github import github_reactions, github_repo_events, github_stargazers


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dlt_sources.github", description=__doc__)
    parser.add_argument("repositories", nargs="+", metavar="owner/name")
    parser.add_argument("--destination", default="duckdb", help="name of a dlt destination (default: duckdb)")
    parser.add_argument("--max-items", type=int, help="at most this many rows per resource")
    parser.add_argument("--full-reload", action="store_true", help="read everything again, not only what changed")
    args = parser.parse_args()
    repositories = [repository.partition("/")[::2] for repository in args.repositories]
    if not all(owner and name for owner, name in repositories):
        parser.error("a repository is named owner/name")
    pipeline = dlt.pipeline("github", destination=args.destination, dataset_name="raw_github")
    for owner, name in repositories:
        sources = [
            github_reactions(owner, name, max_items=args.max_items, full_reload=args.full_reload),
            github_stargazers(owner, name, max_items=args.max_items, full_reload=args.full_reload),
            github_repo_events(owner, name, full_reload=args.full_reload),
        ]
        print(pipeline.run(sources, loader_file_format="parquet"))  # noqa: T201


if __name__ == "__main__":
    main()
