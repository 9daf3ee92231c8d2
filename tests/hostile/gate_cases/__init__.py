"""Which damaged or hostile specifications, baselines and waivers of a gate must be refused."""
