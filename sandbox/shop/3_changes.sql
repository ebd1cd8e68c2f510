-- The triggers that set `updated_at`, and a function that simulates a day's changes.

CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at := now();
    RETURN NEW;
END $$;

CREATE TRIGGER touch BEFORE UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION touch();
CREATE TRIGGER touch BEFORE UPDATE ON products FOR EACH ROW EXECUTE FUNCTION touch();
CREATE TRIGGER touch BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION touch();
CREATE TRIGGER touch BEFORE UPDATE ON order_items FOR EACH ROW EXECUTE FUNCTION touch();

-- SELECT shop_make_changes(100): places 100 orders, ships 100, and marks ten orders as deleted; changes ten customers
-- and ten products.
CREATE FUNCTION shop_make_changes(n integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    few integer := ceil(n / 10.0);
BEGIN
    WITH placed AS (
        INSERT INTO orders (customer_id, total, address, note)
        SELECT customers.id, price, '{"city": "Zürich"}', 'new'
        FROM customers, LATERAL (SELECT price FROM products WHERE products.id = 1) AS product
        ORDER BY random() LIMIT n
        RETURNING id, total
    )
    INSERT INTO order_items (order_id, line, product_id, quantity, unit_price) SELECT id, 1, 1, 1, total FROM placed;

    UPDATE orders SET status = 'shipped', shipped_on = current_date
    WHERE id IN (SELECT id FROM orders WHERE status IN ('placed', 'paid') ORDER BY random() LIMIT n);

    WITH deleted AS (
        UPDATE orders SET deleted_at = now()
        WHERE id IN (SELECT id FROM orders WHERE deleted_at IS NULL ORDER BY random() LIMIT few)
        RETURNING id
    )
    UPDATE order_items SET deleted_at = now() FROM deleted WHERE order_id = deleted.id;

    UPDATE customers SET credit_limit = coalesce(credit_limit, 0) + 0.01
    WHERE id IN (SELECT id FROM customers ORDER BY random() LIMIT few);

    UPDATE products SET price = price + 0.01 WHERE id IN (SELECT id FROM products ORDER BY random() LIMIT few);
END $$;
