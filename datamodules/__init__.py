"""From files to batches: pairs, episodes, views, labelled and retrieval sets."""
