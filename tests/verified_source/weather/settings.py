"""Defaults of the weather source."""

import os

API_URL = os.environ.get("WEATHER_URL", "https://api.weather.example/v1")
PAGE_SIZE = 2
