# shellcheck shell=bash
# Compose only. psql reads the password from its environment, so that no argument and no file contains it.
psql --no-psqlrc --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
\getenv password SHOP_READER_PASSWORD
ALTER ROLE reader PASSWORD :'password';
SQL
