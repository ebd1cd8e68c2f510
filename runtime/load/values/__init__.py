"""No value and no row becomes another on its way into the warehouse: stricter than dlt, which coerces in silence."""
