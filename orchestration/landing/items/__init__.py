"""What an item must be to land, and how it enters `raw_dmm.items`, whatever way it comes."""
