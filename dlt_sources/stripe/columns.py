"""What the main columns of Stripe's tables mean; the others keep Stripe's names and documentation."""

from collections.abc import Mapping, Sequence

import dlt
from dlt.common.schema.typing import TTableSchemaColumns
from dlt.extract.hints import TResourceNestedHints

from dlt_sources.columns import columns

Children = dict[str | Sequence[str], TResourceNestedHints]

METADATA = "Key-value pairs that the account's owner attached to it."
CURRENCY = "Currency as a lower-case ISO 4217 code, such as usd."
# Columns of money end with it.
UNIT = "in the currency's smallest unit (cents of usd, whole jpy)"

COLUMNS: Mapping[str, TTableSchemaColumns] = {
    "subscription": columns(
        id=("text", "Stripe's id of the subscription (sub_…)."),
        customer=("text", "Who subscribes: `customer.id`."),
        status=("text", "incomplete, trialing, active, past_due, unpaid, paused, canceled or incomplete_expired."),
        currency=("text", CURRENCY),
        collection_method=("text", "charge_automatically, or send_invoice: the customer pays by hand."),
        latest_invoice=("text", "Newest invoice of the subscription: `invoice.id`."),
        cancel_at_period_end=("bool", "Whether the subscription ends with the current period."),
        metadata=("json", METADATA),
        application_fee_percent=("double", "Share of each invoice that a platform keeps, in percent."),
        created=("timestamp", "When the subscription was created (UTC)."),
        start_date=(
            "timestamp",
            "When the subscription began (UTC); before `created` if it was backdated.",
        ),
        billing_cycle_anchor=("timestamp", "Moment to which the billing periods are aligned (UTC)."),
        trial_start=("timestamp", "When the trial began (UTC); null without a trial."),
        trial_end=("timestamp", "When the trial ends or ended (UTC); null without a trial."),
        cancel_at=("timestamp", "When the subscription will end (UTC); null if no end is planned."),
        canceled_at=("timestamp", "When the cancellation was requested (UTC), even if it takes effect later."),
        ended_at=("timestamp", "When the subscription ended (UTC); null while it has not."),
    ),
    "account": columns(
        id=("text", "Stripe's id of the connected account (acct_…)."),
        type=("text", "standard, express, custom or none."),
        email=("text", "E-mail address of the account."),
        country=("text", "Country of the account, as an ISO 3166 code."),
        default_currency=("text", "Default currency of the account, as a lower-case ISO 4217 code."),
        business_type=("text", "company, individual, non_profit or government_entity."),
        charges_enabled=("bool", "Whether the account may accept payments."),
        payouts_enabled=("bool", "Whether Stripe may pay out to the account."),
        details_submitted=("bool", "Whether the account has submitted its details."),
        metadata=("json", METADATA),
        created=("timestamp", "When the account was connected (UTC)."),
    ),
    "coupon": columns(
        id=("text", "Stripe's id of the coupon, or the code that the account's owner chose for it."),
        name=("text", "Name of the coupon on invoices and receipts."),
        currency=("text", "Currency of `amount_off`, as a lower-case ISO 4217 code; null for percentages."),
        amount_off=("bigint", f"Amount off, {UNIT}; null for percentages."),
        percent_off=("double", "Percentage off; null for amounts."),
        duration=("text", "How long the discount applies: once, repeating (`duration_in_months`) or forever."),
        duration_in_months=("bigint", "Months for which a repeating discount applies."),
        times_redeemed=("bigint", "How often the coupon was applied to a customer."),
        max_redemptions=("bigint", "How often the coupon can be applied at most; null without a limit."),
        valid=("bool", "Whether the coupon can still be applied."),
        metadata=("json", METADATA),
        redeem_by=("timestamp", "Until when the coupon can be applied (UTC); null without an end."),
        created=("timestamp", "When the coupon was created (UTC)."),
    ),
    "customer": columns(
        id=("text", "Stripe's id of the customer (cus_…)."),
        name=("text", "Name of the customer."),
        email=("text", "E-mail address of the customer."),
        phone=("text", "Phone number of the customer."),
        description=("text", "Description of the customer, by the account's owner."),
        currency=("text", "Currency of the customer's recurring payments, as a lower-case ISO 4217 code."),
        balance=("bigint", f"Balance for the next invoices, {UNIT}: a credit is negative, a debt positive."),
        delinquent=("bool", "True since a payment failed or an invoice became overdue, until one is paid."),
        address__country=("text", "Country of the customer's address, as an ISO 3166 code."),
        metadata=("json", METADATA),
        created=("timestamp", "When the customer was created (UTC)."),
    ),
    "invoice": columns(
        id=("text", "Stripe's id of the invoice (in_…)."),
        number=("text", "Number that the customer sees on the invoice; null for drafts."),
        customer=("text", "Who is billed: `customer.id`."),
        status=("text", "draft, open, paid, uncollectible or void."),
        currency=("text", CURRENCY),
        billing_reason=("text", "Why it was made, such as subscription_create, subscription_cycle or manual."),
        collection_method=("text", "charge_automatically, or send_invoice: the customer pays by hand."),
        amount_due=("bigint", f"Amount due, {UNIT}: the total with the customer's balance applied."),
        amount_paid=("bigint", f"Amount paid, {UNIT}."),
        amount_remaining=("bigint", f"Amount still due, {UNIT}."),
        subtotal=("bigint", f"Sum of the lines, before discounts on the whole invoice and exclusive tax, {UNIT}."),
        total=("bigint", f"Total after discounts and tax, {UNIT}."),
        total_excluding_tax=("bigint", f"Total after discounts, without tax, {UNIT}."),
        metadata=("json", METADATA),
        parent__subscription_details__subscription=(
            "text",
            "Subscription billed, if any: `subscription.id`.",
        ),
        parent__subscription_details__metadata=("json", "Metadata of the subscription when the invoice was made."),
        created=("timestamp", "When the invoice was created (UTC)."),
        due_date=("timestamp", "When payment is due (UTC); null if Stripe charges automatically."),
        period_start=("timestamp", "Start of the usage period (UTC); each line has the period that it bills."),
        period_end=("timestamp", "End of the usage period (UTC); each line has the period that it bills."),
        status_transitions__finalized_at=("timestamp", "When the draft was finalized (UTC)."),
        status_transitions__paid_at=("timestamp", "When the invoice was paid (UTC)."),
        status_transitions__voided_at=("timestamp", "When the invoice was voided (UTC)."),
        status_transitions__marked_uncollectible_at=("timestamp", "When it was marked as uncollectible (UTC)."),
    ),
    "product": columns(
        id=("text", "Stripe's id of the product (prod_…), or one that the account's owner chose."),
        name=("text", "Name of the product."),
        description=("text", "Description of the product."),
        active=("bool", "Whether the product is for sale."),
        default_price=("text", "Default price: `price.id`."),
        type=("text", "good or service."),
        metadata=("json", METADATA),
        updated=("timestamp", "When the product last changed (UTC)."),
        created=("timestamp", "When the product was created (UTC)."),
    ),
    "price": columns(
        id=("text", "Stripe's id of the price (price_…)."),
        product=("text", "Product that it is the price of: `product.id`."),
        currency=("text", CURRENCY),
        unit_amount=("bigint", f"Price of a unit, {UNIT}; null if the price has tiers or fractions of the unit."),
        unit_amount_decimal=("text", f"Price of a unit, {UNIT}, as an exact decimal number."),
        type=("text", "one_time or recurring."),
        active=("bool", "Whether the price can be used for new purchases."),
        nickname=("text", "Internal name of the price."),
        recurring__interval=("text", "Unit of the billing interval: day, week, month or year; null for one_time."),
        recurring__interval_count=("bigint", "Number of these units between two bills."),
        metadata=("json", METADATA),
        created=("timestamp", "When the price was created (UTC)."),
    ),
    "event": columns(
        id=("text", "Stripe's id of the event (evt_…)."),
        type=("text", "What happened, such as invoice.paid or customer.updated."),
        api_version=("text", "Version of Stripe's API that `data` is written in."),
        account=("text", "Connected account in which it happened; null for the account itself."),
        livemode=("bool", "Whether it is real; false for test data."),
        pending_webhooks=("bigint", "Webhooks that had not received the event yet when it was loaded."),
        request__id=("text", "API request that caused the event; null if Stripe itself did."),
        request__idempotency_key=("text", "Idempotency key of that request."),
        data=("json", "The object as it was after the event, and its previous values if it was updated."),
        created=("timestamp", "When the event happened (UTC)."),
    ),
    "balance_transaction": columns(
        id=("text", "Stripe's id of the balance transaction (txn_…)."),
        type=("text", "Kind of movement, such as charge, refund, stripe_fee or payout."),
        reporting_category=("text", "Kind of movement as in Stripe's finance reports; prefer it to `type`."),
        status=("text", "pending, or available: the money can be paid out."),
        source=("text", "Object that the movement belongs to, such as a charge or a payout."),
        description=("text", "Description of the movement."),
        currency=("text", CURRENCY),
        amount=("bigint", f"Gross amount, {UNIT}; negative if money leaves the account."),
        fee=("bigint", f"Fees, {UNIT}; positive if they are charged."),
        net=("bigint", f"Net amount, {UNIT}: amount - fee."),
        exchange_rate=("double", "Rate by which another currency was converted into `currency`; null without one."),
        available_on=("timestamp", "When the net amount becomes available (UTC)."),
        created=("timestamp", "When the transaction was created (UTC)."),
    ),
}

# The rows of a list lie in `items.data` and `lines.data`. dlt would take that envelope, which is no table, for their
# parent.
CHILDREN: Mapping[str, Children] = {
    "subscription": {
        ("items", "data"): dlt.mark.make_nested_hints(
            parent_table_name="subscription",
            columns=columns(
                id=("text", "Stripe's id of the item (si_…)."),
                subscription=("text", "Subscription of the item: `subscription.id`."),
                quantity=("bigint", "Number of units subscribed to; null for metered prices."),
                price__id=("text", "Price of the item: `price.id`."),
                price__product=("text", "Product of the item: `product.id`."),
                price__currency=("text", CURRENCY),
                price__unit_amount=("bigint", f"Price of a unit, {UNIT}."),
                price__metadata=("json", "Metadata of the price."),
                plan__metadata=("json", "Metadata of the price in its older form, the plan."),
                metadata=("json", METADATA),
                created=("timestamp", "When the item was created (UTC)."),
                current_period_start=("timestamp", "Start of the current billing period (UTC)."),
                current_period_end=("timestamp", "End of the current billing period (UTC)."),
            ),
        )
    },
    "invoice": {
        ("lines", "data"): dlt.mark.make_nested_hints(
            parent_table_name="invoice",
            columns=columns(
                id=("text", "Stripe's id of the line (il_…)."),
                invoice=("text", "Invoice of the line: `invoice.id`."),
                description=("text", "Text of the line on the invoice."),
                currency=("text", CURRENCY),
                amount=("bigint", f"Amount of the line, {UNIT}."),
                subtotal=("bigint", f"Amount of the line before discounts and taxes, {UNIT}."),
                quantity=("bigint", "Number of units."),
                metadata=("json", METADATA),
                period__start=("timestamp", "Start of the period that the line bills (UTC)."),
                period__end=("timestamp", "End of the period that the line bills (UTC)."),
            ),
        )
    },
}
