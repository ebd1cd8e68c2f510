-- A statement for each table of a database that returns its name and its number of rows. Not for the staging of loads.
-- backups.py executes them, and scripts/restore.py lets psql do so.
SELECT format('SELECT %L, count(*) FROM ONLY %I.%I', format('%I.%I', n.nspname, c.relname), n.nspname, c.relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname <> 'information_schema' AND NOT starts_with(n.nspname, 'pg_')
    AND n.nspname !~ '_staging_[a-z2-7]{29}$'
ORDER BY n.nspname, c.relname
