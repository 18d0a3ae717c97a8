"""``make demo``: real clones are made, cancelled and failed, and every claim is looked up at the target."""
