"""Stripe's objects with all their keys, as in the pinned version of the API.

Each function takes the values that vary; all others are those of an ordinary live account. Amounts are integers in the
currency's minor unit, times are Unix times.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

Object = dict[str, Any]
EMBEDDED = 10  # a list in another object has at most so many items; the others are at the list's URL


def nulls(names: str) -> Object:
    return dict.fromkeys(names.split())


def listing(data: list[Object], url: str) -> Object:
    return {"object": "list", "data": data, "has_more": False, "url": url}


def serialize(item: Object) -> Object:
    """An object as the API returns it: embedded lists are cut."""
    cut = {
        key: value | {"data": value["data"][:EMBEDDED], "has_more": True}
        for key, value in item.items()
        if isinstance(value, dict) and value.get("object") == "list" and len(value["data"]) > EMBEDDED
    }
    return item | cut if cut else item


def product(id: str, created: int, name: str) -> Object:
    return {
        **nulls("default_price package_dimensions shippable statement_descriptor tax_code unit_label url"),
        "id": id,
        "object": "product",
        "active": True,
        "created": created,
        "description": f"{name}, billed by subscription",
        "images": [],
        "livemode": True,
        "marketing_features": [],
        "metadata": {},
        "name": name,
        "type": "service",
        "updated": created,
    }


def price(id: str, created: int, product: str, currency: str, amount: int, interval: str) -> Object:
    return {
        **nulls("custom_unit_amount lookup_key nickname tiers_mode transform_quantity"),
        "id": id,
        "object": "price",
        "active": True,
        "billing_scheme": "per_unit",
        "created": created,
        "currency": currency,
        "livemode": True,
        "metadata": {},
        "product": product,
        "recurring": {
            "interval": interval,
            "interval_count": 1,
            "meter": None,
            "trial_period_days": None,
            "usage_type": "licensed",
        },
        "tax_behavior": "unspecified",
        "type": "recurring",
        "unit_amount": amount,
        "unit_amount_decimal": str(amount),
    }


def coupon(
    id: str, created: int, name: str, percent_off: float | None, amount_off: int | None, currency: str
) -> Object:
    return {
        **nulls("max_redemptions redeem_by"),
        "id": id,
        "object": "coupon",
        "amount_off": amount_off,
        "created": created,
        "currency": currency if amount_off else None,
        "duration": "repeating",
        "duration_in_months": 3,
        "livemode": True,
        "metadata": {},
        "name": name,
        "percent_off": percent_off,
        "times_redeemed": 0,
        "valid": True,
    }


def customer(id: str, created: int, name: str, email: str, country: str, currency: str) -> Object:
    return {
        **nulls("default_source description discount phone shipping test_clock"),
        "id": id,
        "object": "customer",
        "address": nulls("city line1 line2 postal_code state") | {"country": country},
        "balance": 0,
        "created": created,
        "currency": currency,
        "delinquent": False,
        "email": email,
        "invoice_prefix": id[-8:].upper(),
        "invoice_settings": {
            **nulls("custom_fields default_payment_method footer"),
            "rendering_options": nulls("amount_tax_display template"),
        },
        "livemode": True,
        "metadata": {"plan source": "web"},  # arbitrary keys
        "name": name,
        "next_invoice_sequence": 1,
        "preferred_locales": ["en"],
        "tax_exempt": "none",
    }


def subscription_item(id: str, created: int, subscription: str, price: Object, quantity: int, month: int) -> Object:
    plan = {key: price[key] for key in ("active", "billing_scheme", "created", "currency", "id", "livemode", "product")}
    return {
        "id": id,
        "object": "subscription_item",
        "billing_thresholds": None,
        "created": created,
        "current_period_end": created + month,
        "current_period_start": created,
        "discounts": [],
        "metadata": {},
        "plan": {
            **nulls("meter nickname tiers_mode transform_usage trial_period_days"),
            **plan,
            "object": "plan",
            "amount": price["unit_amount"],
            "amount_decimal": price["unit_amount_decimal"],
            "interval": price["recurring"]["interval"],
            "interval_count": 1,
            "metadata": {},
            "usage_type": "licensed",
        },
        "price": deepcopy(price),
        "quantity": quantity,
        "subscription": subscription,
        "tax_rates": [],
    }


def subscription(id: str, created: int, customer: str, currency: str, items: list[Object], status: str) -> Object:
    return {
        **nulls("application application_fee_percent billing_cycle_anchor_config billing_thresholds cancel_at"),
        **nulls("canceled_at customer_account days_until_due default_payment_method default_source description"),
        **nulls("ended_at latest_invoice next_pending_invoice_item_invoice on_behalf_of pause_collection"),
        **nulls("pending_invoice_item_interval pending_setup_intent pending_update schedule test_clock transfer_data"),
        "id": id,
        "object": "subscription",
        "automatic_tax": {"enabled": False, "liability": None, "disabled_reason": None},
        "billing_cycle_anchor": created,
        "billing_mode": {"type": "classic", "flexible": None},
        "billing_schedules": [],
        "cancel_at_period_end": False,
        "cancellation_details": nulls("comment feedback reason"),
        "collection_method": "charge_automatically",
        "created": created,
        "currency": currency,
        "customer": customer,
        "default_tax_rates": [],
        "discounts": [],
        "invoice_settings": {
            **nulls("account_tax_ids custom_fields description footer"),
            "issuer": {"type": "self"},
        },
        "items": listing(items, f"/v1/subscription_items?subscription={id}"),
        "livemode": True,
        "managed_payments": {"enabled": False},
        "metadata": {},
        "payment_settings": {
            **nulls("payment_method_options payment_method_types"),
            "save_default_payment_method": "off",
        },
        "start_date": created,
        "status": status,
        "trial_end": created + 14 * 86_400 if status == "trialing" else None,
        "trial_settings": {"end_behavior": {"missing_payment_method": "create_invoice"}},
        "trial_start": created if status == "trialing" else None,
    }


def line(id: str, invoice: str, item: Object, start: int, month: int) -> Object:
    amount = item["price"]["unit_amount"] * item["quantity"]
    return {
        **nulls("pretax_credit_amounts taxes"),
        "id": id,
        "object": "line_item",
        "amount": amount,
        "currency": item["price"]["currency"],
        "description": f"{item['quantity']} of {item['price']['product']}",
        "discount_amounts": [],
        "discountable": True,
        "discounts": [],
        "invoice": invoice,
        "livemode": True,
        "metadata": {},
        "parent": {
            "invoice_item_details": None,
            "subscription_item_details": {
                "invoice_item": None,
                "proration": False,
                "proration_details": {"credited_items": None},
                "subscription": item["subscription"],
                "subscription_item": item["id"],
            },
            "type": "subscription_item_details",
        },
        "period": {"start": start, "end": start + month},
        "pricing": {"type": "price_details", "unit_amount_decimal": item["price"]["unit_amount_decimal"]},
        "quantity": item["quantity"],
        "quantity_decimal": str(item["quantity"]),
        "subscription": item["subscription"],
        "subtotal": amount,
    }


def invoice(
    id: str, created: int, customer: Object, subscription: str, number: str, lines: list[Object], paid_at: int | None
) -> Object:
    total = sum(line["amount"] for line in lines)
    paid = total if paid_at else 0
    return {
        **nulls("account_tax_ids application automatically_finalizes_at custom_fields customer_account"),
        **nulls("customer_phone customer_shipping default_payment_method default_source description due_date footer"),
        **nulls("from_invoice invoice_pdf last_finalization_error latest_revision next_payment_attempt on_behalf_of"),
        **nulls("receipt_number shipping_cost shipping_details statement_descriptor subscription test_clock"),
        **nulls("total_pretax_credit_amounts total_taxes hosted_invoice_url"),
        "id": id,
        "object": "invoice",
        "account_country": customer["address"]["country"],
        "account_name": "Sandbox",
        "amount_due": total,
        "amount_overpaid": 0,
        "amount_paid": paid,
        "amount_remaining": total - paid,
        "amount_shipping": 0,
        "attempt_count": 1,
        "attempted": True,
        "auto_advance": not paid_at,
        "automatic_tax": nulls("disabled_reason liability provider status") | {"enabled": False},
        "billing_reason": "subscription_cycle",
        "collection_method": "charge_automatically",
        "created": created,
        "currency": customer["currency"],
        "customer": customer["id"],
        "customer_address": customer["address"],
        "customer_email": customer["email"],
        "customer_name": customer["name"],
        "customer_tax_exempt": "none",
        "customer_tax_ids": [],
        "default_tax_rates": [],
        "discounts": [],
        "effective_at": created,
        "ending_balance": 0,
        "issuer": {"type": "self"},
        "lines": listing(lines, f"/v1/invoices/{id}/lines"),
        "livemode": True,
        "metadata": {},
        "number": number,
        "parent": {
            "quote_details": None,
            "subscription_details": {"metadata": {}, "subscription": subscription},
            "type": "subscription_details",
        },
        "payment_settings": nulls("default_mandate payment_method_options payment_method_types"),
        "period_end": created,
        "period_start": created,
        "post_payment_credit_notes_amount": 0,
        "pre_payment_credit_notes_amount": 0,
        "rendering": None,
        "starting_balance": 0,
        "status": "paid" if paid_at else "open",
        "status_transitions": nulls("marked_uncollectible_at voided_at")
        | {"finalized_at": created, "paid_at": paid_at},
        "subtotal": total,
        "subtotal_excluding_tax": total,
        "total": total,
        "total_discount_amounts": [],
        "total_excluding_tax": total,
        "webhooks_delivered_at": created,
    }


def balance_transaction(
    id: str, created: int, kind: str, source: str, currency: str, amount: int, fee: int, available_on: int, now: int
) -> Object:
    fees = {"amount": fee, "currency": currency, "description": "Stripe processing fees", "type": "stripe_fee"}
    return {
        "id": id,
        "object": "balance_transaction",
        "amount": amount,
        "available_on": available_on,
        "balance_type": "payments",
        "created": created,
        "currency": currency,
        "description": f"Subscription {kind}",
        "exchange_rate": None,
        "fee": fee,
        "fee_details": [fees | {"application": None}] if fee else [],
        "net": amount - fee,
        "reporting_category": kind,
        "source": source,
        "status": "available" if available_on <= now else "pending",
        "type": kind,
    }


def event(id: str, created: int, version: str, kind: str, item: Object, previous: Object | None = None) -> Object:
    """An event with a snapshot of the object and, if the object changed, the previous values."""
    changed = {"previous_attributes": previous} if previous else {}
    return {
        "id": id,
        "object": "event",
        "api_version": version,
        "created": created,
        "data": {"object": deepcopy(serialize(item)), **changed},
        "livemode": True,
        "pending_webhooks": 0,
        "request": nulls("id idempotency_key"),
        "type": kind,
    }


def account(id: str, created: int, name: str, country: str, currency: str) -> Object:
    """A connected account with incomplete details."""
    due = ["external_account", "tos_acceptance.date", "tos_acceptance.ip"]
    requirements: Object = {
        **nulls("current_deadline disabled_reason"),
        **{"alternatives": [], "currently_due": [], "errors": [], "eventually_due": [], "past_due": []},
        "pending_verification": [],
    }
    prefixed = nulls("statement_descriptor_prefix_kana statement_descriptor_prefix_kanji")
    return {
        "id": id,
        "object": "account",
        "business_profile": {
            **nulls("estimated_worker_count mcc product_description support_email support_phone support_url url"),
            "annual_revenue": None,
            "minority_owned_business_designation": None,
            "name": name,
            "support_address": None,
        },
        "business_type": None,
        "capabilities": {"card_payments": "active", "transfers": "active"},
        "charges_enabled": False,
        "controller": {"type": "account"},
        "country": country,
        "created": created,
        "default_currency": currency,
        "details_submitted": False,
        "email": f"{name.lower()}@example.com",
        "external_accounts": listing([], f"/v1/accounts/{id}/external_accounts"),
        "future_requirements": requirements,
        "metadata": {},
        "payouts_enabled": False,
        "requirements": requirements
        | {"currently_due": due, "eventually_due": due, "disabled_reason": "requirements.past_due"},
        "settings": {
            "bacs_debit_payments": nulls("display_name service_user_number"),
            "branding": nulls("icon logo primary_color secondary_color"),
            "card_issuing": {"tos_acceptance": nulls("date ip")},
            "card_payments": {
                **nulls("statement_descriptor_prefix"),
                **prefixed,
                "decline_on": {"avs_failure": True, "cvc_failure": True},
            },
            "dashboard": {"display_name": name, "timezone": "Etc/UTC"},
            "invoices": nulls("default_account_tax_ids hosted_payment_method_save"),
            "payments": {
                **nulls("statement_descriptor statement_descriptor_kana statement_descriptor_kanji"),
                **prefixed,
            },
            "payouts": {
                "debit_negative_balances": True,
                "schedule": {"delay_days": 2, "interval": "daily"},
                "statement_descriptor": None,
            },
            "sepa_debit_payments": {},
        },
        "tos_acceptance": nulls("date ip user_agent"),
        "type": "standard",
    }
