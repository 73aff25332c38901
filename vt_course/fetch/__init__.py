"""Downloads of files that others publish: Kinetics and official weights. An interrupted download can be continued."""
