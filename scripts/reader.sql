-- The user `reader` of compose.read.yml. It may be run again, for example with another password.
\getenv password READER_PASSWORD
SELECT 'CREATE ROLE reader LOGIN' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'reader') \gexec
ALTER ROLE reader PASSWORD :'password' CONNECTION LIMIT 20;
-- All tables in all schemas, those of later loads included.
GRANT pg_read_all_data TO reader;
-- A load waits for a transaction that has read its table. A BI tool that forgets one must not stop loads.
ALTER ROLE reader SET idle_in_transaction_session_timeout = '5min';
