# In compose alone. psql takes the password from its environment, quoted: no argument and no file shows it.
psql --no-psqlrc --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
\getenv password SHOP_READER_PASSWORD
ALTER ROLE reader PASSWORD :'password';
SQL
