"""Jobs over assets of components, by their keys `<dataset>/<table>`."""

import dagster as dg

day_of_parcels = dg.define_asset_job("day_of_parcels", selection=["raw_parcels/parcels"])
