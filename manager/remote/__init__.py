"""Models that are not here: their headers, read from an address by HTTP Range."""
