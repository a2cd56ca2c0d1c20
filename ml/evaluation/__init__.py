"""One protocol for baselines and models: ranking rules, metrics, intervals, the judge and the collapse detectors."""
