"""What the service tells whoever asks over HTTP: health, metrics, and the admin API. All of aiohttp is here."""
