"""The text: documents and the one split, tokenised shards, training blocks."""
