"""Drawing and handing over: members, thresholds, stores, catalogs, augmentation."""
