-- Always the same 100,000 orders: from the first 90 days of 2026, a third of them changed within the next ten days.

-- A pseudo-random number from 0 to n - 1 that depends only on the arguments.
CREATE FUNCTION pick(id bigint, salt text, n bigint) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ('x' || left(md5(salt || id), 12))::bit(48)::bigint % n;

-- Without checks of the foreign keys, which take a third of the time.
SET session_replication_role = replica;

INSERT INTO customers
SELECT
    id,
    md5('customer ' || id)::uuid,
    (ARRAY['Ada', 'Žofie', 'Łukasz', '美咲', 'Омар', 'Ngũgĩ', 'José', 'Zoë'])[1 + pick(id, 'first', 8)] || ' '
        || (ARRAY['Lovelace', 'O''Brien', 'Müller-Lüdenscheidt', '👩🏽‍💻', 'de la "Cruz"', '田中', 'Nguyễn'])[1 + pick(id, 'last', 7)],
    CASE WHEN id % 10 > 0 THEN 'customer' || id || '@example.com' END,
    CASE WHEN id % 3 > 0 THEN date '1940-02-29' + pick(id, 'born', 25000)::integer END,
    CASE id % 4 WHEN 0 THEN '{}' WHEN 1 THEN ARRAY['+49 30 ' || id] ELSE ARRAY['+1, ' || id, NULL, '"' || id || '"'] END,
    CASE id % 5 WHEN 0 THEN '{}'
        ELSE jsonb_build_object('theme', 'dark', 'limits', jsonb_build_array(id, 0.1, null), 'größe', '{"nested": "\u00fc"}')
    END,
    CASE WHEN id % 7 > 0 THEN pick(id, 'credit', 1000000) / 100.0 END,
    id % 2 = 0,
    timestamptz '2026-01-01 00:00:00+00' + pick(id, 'updated', 7776000000000) * interval '1 microsecond',
    NULL
FROM generate_series(1, 5000) AS id;

INSERT INTO products
SELECT
    id,
    'SKU-' || lpad(id::text, 5, '0'),
    'Product ' || id || (ARRAY['', ' – größer', E'\twith a tab', E'\nin two lines', ', with commas'])[1 + id % 5],
    1 + pick(id, 'price', 50000) / 100.0,
    CASE WHEN id % 6 > 0 THEN pick(id, 'weight', 1000000000) * 0.00000001 END,
    CASE WHEN id % 5 > 0 THEN pick(id, 'rating', 50) / 10.0 END,
    CASE id % 3 WHEN 0 THEN NULL WHEN 1 THEN '{}' ELSE ARRAY[36, 38, 40]::integer[] END,
    CASE id % 4 WHEN 0 THEN NULL WHEN 1 THEN 'null' ELSE jsonb_build_object('colours', '["red", "grün"]'::jsonb, 'rate', 1.10) END,
    timestamptz '2026-01-01 00:00:00+00' + pick(id, 'updated', 7776000000000) * interval '1 microsecond',
    NULL
FROM generate_series(1, 500) AS id;

CREATE TEMPORARY TABLE placed AS
SELECT
    id,
    timestamptz '2026-01-01 00:00:00+00' + pick(id, 'placed', 7776000000000) * interval '1 microsecond' AS placed_at,
    CASE WHEN id % 3 = 0 THEN pick(id, 'changed', 864000000000) * interval '1 microsecond' ELSE interval '0' END AS later
FROM generate_series(1, 100000) AS id;

CREATE TEMPORARY TABLE items AS
SELECT
    id AS order_id,
    line,
    1 + pick(id, 'product' || line, 500) AS product_id,
    1 + pick(id, 'quantity' || line, 9) AS quantity,
    placed_at + later AS updated_at
FROM placed, generate_series(1, 1 + pick(id, 'items', 3)) AS line;

ANALYZE items;

INSERT INTO orders
SELECT
    id,
    md5('order ' || id)::uuid,
    1 + pick(id, 'customer', 5000),
    (ARRAY['placed', 'paid', 'shipped', 'returned']::order_status[])[1 + CASE WHEN later > '0' THEN 1 + id % 3 ELSE 0 END],
    total,
    0.5 + pick(id, 'rate', 10000000000) / 10000000000.0,
    CASE id % 8 WHEN 0 THEN ARRAY['SPRING', '10 %, "once"'] WHEN 1 THEN '{}' END,
    jsonb_build_object('city', (ARRAY['Zürich', '東京', 'São Paulo', 'Oslo'])[1 + id % 4], 'zip', lpad((id % 99999)::text, 5, '0')),
    CASE id % 6 WHEN 0 THEN '' WHEN 1 THEN 'Ring twice, "please"' WHEN 2 THEN E'Two\nlines; 🎁 \\N' END,
    CASE WHEN id % 9 = 0 THEN time '00:00' + pick(id, 'picked', 86400000000) * interval '1 microsecond' END,
    CASE WHEN later > '0' AND id % 2 = 0 THEN (placed_at AT TIME ZONE 'UTC')::date + 1 END,
    placed_at,
    placed_at + later,
    CASE WHEN later > '0' AND id % 100 = 0 THEN placed_at + later END
FROM placed
JOIN (
    SELECT order_id, sum(quantity * price) AS total FROM items JOIN products ON products.id = product_id GROUP BY order_id
) AS totals ON order_id = id;

INSERT INTO order_items
SELECT order_id, line, product_id, quantity, price, items.updated_at, orders.deleted_at
FROM items
JOIN products ON products.id = product_id
JOIN orders ON orders.id = order_id;

SELECT
    setval(pg_get_serial_sequence('customers', 'id'), 5000),
    setval(pg_get_serial_sequence('products', 'id'), 500),
    setval(pg_get_serial_sequence('orders', 'id'), 100000);

RESET session_replication_role;
