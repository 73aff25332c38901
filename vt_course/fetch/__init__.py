"""From elsewhere to here: files that others publish, fetched so that an interruption loses nothing."""
