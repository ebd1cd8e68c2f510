"""Sources as `dlt init` has written them. README.md says how to add one."""
